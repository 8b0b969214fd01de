"""``booru-embed evaluate``: held-out-tag prediction on a file of posts, beside the baselines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from booru_embed_core.cli.shared import CHECKPOINT, MAX_SEED, CheckpointOption, JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile


class Hide(StrEnum):
    """How many tags of a post are hidden."""

    ONE = "one"
    HALF = "half"


def evaluate(
    posts: Annotated[Path, typer.Option("--posts", help="Export with the posts to test on.", metavar="FILE")],
    checkpoint: CheckpointOption = CHECKPOINT,
    hide: Annotated[Hide, typer.Option("--hide", help="Hide one tag of each post, or half of them.")] = Hide.ONE,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Decides which tags are hidden.")] = 7,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", help="Packed file that the checkpoint was trained on; by default from its warehouse."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure held-out-tag prediction on your own posts, beside baselines fitted on the training split."""
    import numpy as np

    from booru_embed_core.evaluation.report import evaluate_captions
    from booru_embed_core.evaluation.scorers import model_scorers
    from booru_embed_core.evaluation.tuning import baselines_from_packed
    from booru_embed_core.filesystem import scratch_folder
    from booru_embed_core.settings import EvaluationSettings
    from booru_embed_core.tokens.cooccurrence import captions_from_packed
    from booru_embed_core.training.checkpoint import load_checkpoint
    from booru_embed_core.training.hardware import pick_device

    model, config, vocab = load_checkpoint(checkpoint, pick_device("auto"))
    packed = _training_tokens(tokens, checkpoint, config.packed_tokens, vocab.hash)
    with scratch_folder() as folder:
        tested = _pack(posts, folder, vocab)
        rows = np.arange(tested.num_posts, dtype=np.int64)
        captions, post_ids = captions_from_packed(tested, vocab, rows), tested.post_id.copy()
    _warn_of_training_posts(packed, post_ids)
    baselines = baselines_from_packed(packed, vocab, EvaluationSettings(), say)
    dropped = vocab.implications if config.splits.drop_implied else None
    scorers = model_scorers(model, dropped)
    result = evaluate_captions(scorers, baselines, captions, post_ids, hide.value, seed, vocab.is_unknown)
    if as_json:
        print_json(result)
        return
    names = list(next(iter(result["models"].values())))
    print(f"{result['num_posts']:,} posts, {hide.value} hidden, seed {seed}")
    metrics_rows = [(name, *(f"{metrics[n]:.3f}" for n in names)) for name, metrics in result["models"].items()]
    print_table([("", *names), *metrics_rows])


def _training_tokens(given: Path | None, checkpoint: Path, version: str, vocab_hash: str) -> PackedFile:
    """The packed file that the baselines are fitted on: `given`, else `version` in the checkpoint's warehouse."""
    from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile

    file = given or checkpoint.resolve().parent.parent / "packed_tokens" / version / PACKED_FILE
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: no such file, and the baselines are fitted on it; name the packed file that the checkpoint was "
            "trained on with --tokens"
        )
    return PackedFile.open(file, vocab_hash)


def _pack(posts: Path, folder: Path, vocab: Vocab) -> PackedFile:
    """The posts of an export, read and encoded below `folder`."""
    from booru_embed_core.posts.export_files import expand_export
    from booru_embed_core.posts.read_posts import read_posts
    from booru_embed_core.settings import DuckdbSettings, PostsSettings, TokensSettings
    from booru_embed_core.tokens.encode import encode_posts
    from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile

    for name in ("posts", "tokens"):
        (folder / name).mkdir()
    report = read_posts(expand_export([str(posts)], Path()), folder / "posts", PostsSettings(), DuckdbSettings())
    encode_posts(folder / "posts", vocab, folder / "tokens", TokensSettings())
    say(f"{posts}: {report.summary}")
    return PackedFile.open(folder / "tokens" / PACKED_FILE)


def _warn_of_training_posts(packed: PackedFile, post_ids: NDArray[np.int64]) -> None:
    import numpy as np

    from booru_embed_core.tokens.batches import rows_of_split

    seen = int(np.isin(post_ids, packed.post_id[rows_of_split(packed, "train")]).sum())
    if seen:
        say(f"warning: {seen:,} of {len(post_ids):,} posts were trained on; the figures are too good")
