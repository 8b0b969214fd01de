"""Do captions without implied tags (``[tokens] drop_implied``) make a better model, or a cheaper one?

For each of `SEEDS` one model trains on whole captions and one on captions without implied tags, with the settings'
defaults but for `BOORU_EMBED_EPOCHS` epochs (default 2), in this process. Both are asked for hidden tags of the same
whole test posts, with implied tags left out: those that a visible tag implies, and also those that any tag of the post
implies (``specific``). EASE, fitted on whole training captions with λ = `EASE_LAMBDA`, stands beside them.

``BOORU_EMBED_WAREHOUSE`` names the warehouse; the default is ``data/warehouse``. A vocabulary without implications
takes those of the evaluation: a → b if over 98% of the training posts with a, at least 20, have b.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import sparse

from benchmarks._results import write
from booru_embed_core.evaluation.baselines import Scorer, fit_ease
from booru_embed_core.evaluation.implied import implied_pairs, without_implied, without_tags
from booru_embed_core.evaluation.metrics import mean_metrics, metrics_of_ranks, rank_hidden
from booru_embed_core.evaluation.scorers import model_scorers
from booru_embed_core.evaluation.tasks import HIDES, HeldOut, hold_out
from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.settings import ModelSettings, TokensSettings, TrainingSettings
from booru_embed_core.tags.build import save_vocab
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import (
    CaptionMatrix,
    caption_matrix,
    captions_from_packed,
    count_cooccurrence,
)
from booru_embed_core.tokens.encode import encode_posts
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_core.training.checkpoint import load_checkpoint
from booru_embed_core.training.loop import train

SEEDS: Final = (7, 8)
EASE_LAMBDA: Final = 300.0
_HELD_OUT_SEED: Final = 7
_NUM_MODELS: Final = 2
"""The bottleneck and the completion head."""


def main() -> None:
    """Prints and writes the figures of both ways, by seed."""
    warehouse = Path(os.environ.get("BOORU_EMBED_WAREHOUSE", "data/warehouse"))
    num_epochs = int(os.environ.get("BOORU_EMBED_EPOCHS", "2"))
    with scratch_folder() as scratch:
        vocab = _vocab(warehouse, scratch)
        packed = {
            name: _packed(warehouse, vocab, scratch / name, TokensSettings(drop_implied=name == "dropped"))
            for name in ("whole", "dropped")
        }
        rows = rows_of_split(packed["whole"], "test")
        tasks = _tasks(captions_from_packed(packed["whole"], vocab, rows), packed["whole"].post_id[rows], vocab)
        pairs = count_cooccurrence(
            captions_from_packed(packed["whole"], vocab, rows_of_split(packed["whole"], "train")), vocab.num_tags
        )
        found: dict[str, Any] = {
            "num_epochs": num_epochs,
            "num_implications": vocab.implications.num_pairs,
            "tokens_per_caption": {name: one.num_tokens / one.num_posts for name, one in packed.items()},
            "ease": _recalls([fit_ease(pairs, EASE_LAMBDA)], tasks),
        }
        for seed in SEEDS:
            for name, one in packed.items():
                settings = TrainingSettings(seed=seed, num_epochs=num_epochs, device="cpu")
                figures = _trained(one, vocab, scratch, scratch / f"{name}-{seed}", settings, tasks)
                found[f"{name}, seed {seed}"] = figures
                print(name, seed, figures, flush=True)
        write("implied", found)


def _vocab(warehouse: Path, out_dir: Path) -> Vocab:
    """The warehouse's vocabulary with implications, written to `out_dir`."""
    vocab = Vocab.load(warehouse / "vocab/current")
    if not vocab.implications.num_pairs:
        packed = PackedFile.open(warehouse / "packed_tokens/current" / PACKED_FILE, vocab.hash)
        captions = captions_from_packed(packed, vocab, rows_of_split(packed, "train"))
        causes, effects = implied_pairs(captions, 0.98, 20).nonzero()
        vocab = replace(vocab, implications=Implications.of_pairs(causes, effects, vocab.num_tags))
    save_vocab(vocab, out_dir)
    return vocab


def _packed(warehouse: Path, vocab: Vocab, out_dir: Path, settings: TokensSettings) -> PackedFile:
    out_dir.mkdir()
    encode_posts(warehouse / "posts/current", vocab, out_dir, settings)
    return PackedFile.open(out_dir / PACKED_FILE, vocab.hash)


def _trained(
    packed: PackedFile,
    vocab: Vocab,
    vocab_dir: Path,
    work_dir: Path,
    settings: TrainingSettings,
    tasks: dict[str, tuple[HeldOut, HeldOut, HeldOut]],
) -> dict[str, Any]:
    out_dir = work_dir / "checkpoint"
    out_dir.mkdir(parents=True)
    started = time.process_time()
    train(packed.path, vocab_dir, work_dir / "work", out_dir, ModelSettings(), settings)
    seconds = time.process_time() - started
    dropped = vocab.implications if packed.split_settings.drop_implied else None
    scorers = model_scorers(load_checkpoint(out_dir)[0], dropped)[:_NUM_MODELS]
    return {"cpu_seconds": seconds, **_recalls(scorers, tasks)}


def _tasks(
    captions: CaptionMatrix, post_ids: np.ndarray[Any, np.dtype[np.int64]], vocab: Vocab
) -> dict[str, tuple[HeldOut, HeldOut, HeldOut]]:
    """Each task whole, without what visible tags imply, and without what any tag of the post implies."""
    closure = caption_matrix(vocab.implications.targets, vocab.implications.offsets, vocab.num_tags)
    every = np.ones(vocab.implications.num_pairs, np.bool_)
    shape = (vocab.num_tags, vocab.num_tags)
    implied = sparse.csr_matrix((every, vocab.implications.targets, vocab.implications.offsets), shape)
    found: dict[str, tuple[HeldOut, HeldOut, HeldOut]] = {}
    for hide in HIDES:
        held_out = hold_out(captions, post_ids, hide, _HELD_OUT_SEED, vocab.is_unknown)
        left = without_implied(held_out, implied)
        found[hide] = (held_out, left, _specific(left, captions[left.post_index] @ closure))
    return found


def _specific(held_out: HeldOut, implied: CaptionMatrix) -> HeldOut:
    """`held_out` without the hidden tags that are in `implied` ``[n, num_tags]``; they are not ranked either."""
    return without_tags(held_out, held_out.hidden.multiply(implied.astype(bool).astype(np.float32)).tocsr())


def _recalls(scorers: Sequence[Scorer], tasks: dict[str, tuple[HeldOut, HeldOut, HeldOut]]) -> dict[str, Any]:
    """recall@10 of each scorer: of the hidden tags without implied ones, and of specific ones alone."""
    found: dict[str, Any] = {}
    for hide, every in tasks.items():
        for scorer in scorers:
            _, left, specific = (
                mean_metrics(metrics_of_ranks(ranked.ranks, task.hidden))["recall@10"]
                for ranked, task in zip(rank_hidden(scorer, every), every, strict=True)
            )
            found.setdefault(hide, {})[scorer.name] = {"recall@10": left, "specific recall@10": specific}
    return found
