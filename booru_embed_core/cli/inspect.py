"""``booru-embed inspect``: a vocabulary, a packed file, tag words, a checkpoint, or the cost of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from booru_embed_core.cli.shared import (
    CHECKPOINT,
    MAX_COUNT,
    PACKED_TOKENS,
    WAREHOUSE,
    CategoryOption,
    CountOption,
    JsonOption,
    PackedOption,
    packed_file,
    print_facts,
    print_json,
    print_table,
    say,
)
from booru_embed_core.schema import SPLITS, Category

if TYPE_CHECKING:
    import torch

    from booru_embed_core.settings import TrainingSettings

_ONE: Final = "one caption"
_ASKED: Final = {_ONE: 1, "1,000 captions": 1000, "100,000 captions": 100_000}
"""How many captions `inspect checkpoint` names a backend for."""

inspect_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Show what a vocabulary, a packed file or a checkpoint holds.",
)


@inspect_app.command("vocab")
def inspect_vocab(
    folder: Annotated[Path, typer.Argument(help="Folder of a vocab or a checkpoint.")] = WAREHOUSE / "vocab/current",
    search: Annotated[str, typer.Option(help="List tags that contain this.")] = "",
    category: CategoryOption = None,
    k: CountOption = 20,
    as_json: JsonOption = False,
) -> None:
    """Print the sizes and most used tags of a vocabulary, and what its cut lost."""
    from booru_embed_core.schema import CATEGORIES
    from booru_embed_core.tags.vocab import Vocab

    vocab = Vocab.load(folder)
    rows = [
        {"token_id": vocab.num_special + i, "category": CATEGORIES[c].value, "tag": tag, "count": int(vocab.counts[i])}
        for i, (tag, c) in enumerate(zip(vocab.tags, vocab.categories.tolist(), strict=True))
        if search.lower() in tag.lower() and category in (None, CATEGORIES[c])
    ]
    rows.sort(key=lambda row: (-row["count"], row["token_id"]))
    sizes = {one.value: size for one, size in vocab.sizes.items()}
    lost = vocab.lost_rows()
    if as_json:
        print_json({"num_tags": vocab.num_tags, "sizes": sizes, "sha256": vocab.hash, "lost": lost, "tags": rows[:k]})
        return
    print(f"{vocab.num_tags:,} tags: " + ", ".join(f"{size:,} {name}" for name, size in sizes.items()))
    if lost:
        _print_rows(lost)
        print()
    print_table([(f"{row['count']:,}", str(row["category"]), str(row["tag"])) for row in rows[:k]])


@inspect_app.command("tokens")
def inspect_tokens(
    file: Annotated[Path, typer.Argument(help="Packed file, or its folder.")] = PACKED_TOKENS,
    vocab: Annotated[
        Path | None, typer.Option("--vocab", help="Folder of its vocab; unknown tokens then do not count as tags.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print counts, splits and caption lengths of a packed file, and how many posts have few tags left."""
    import numpy as np

    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.lengths import short_posts
    from booru_embed_core.tokens.packed_file import PackedFile

    made_with = Vocab.load(vocab) if vocab else None
    packed = PackedFile.open(packed_file(file), made_with.hash if made_with else None)
    lengths = np.diff(packed.offsets.astype(np.int64))
    splits = np.bincount(packed.split_ids(), minlength=len(SPLITS))
    facts = {
        "num_posts": packed.num_posts,
        "num_tokens": packed.num_tokens,
        "token_dtype": str(packed.tokens.dtype),
        "vocab_hash": packed.vocab_hash,
        "splits": {name: int(size) for name, size in zip(SPLITS, splits, strict=True)},
        "length_percentiles": {
            f"p{share}": int(np.percentile(lengths, share, method="lower")) for share in (1, 5, 50, 95, 99, 100)
        },
    }
    short = short_posts(packed, made_with).to_pylist()
    if as_json:
        print_json(facts | {"short_posts": short})
        return
    print_facts(facts)
    print("\nposts with")
    _print_rows(short)


@inspect_app.command("words")
def inspect_words(
    folder: Annotated[Path, typer.Argument(help="Folder of tag frequencies, or of posts to count.")] = (
        WAREHOUSE / "tag_frequencies/current"
    ),
    category: CategoryOption = None,
    k: CountOption = 20,
    as_json: JsonOption = False,
) -> None:
    """Print the words that tags are made of, for comparison; the tokenizer knows only whole tags."""
    from booru_embed_core.tags.words import count_words

    with _frequencies(folder) as freq_dir:
        words = count_words(freq_dir, category)
    shown = words.table.slice(0, k).to_pylist()
    facts = {"num_labels": words.num_labels, "num_words": words.table.num_rows, "num_uses": words.num_uses}
    if as_json:
        print_json({**facts, "words": shown, "compared": words.compared.to_pylist()})
        return
    print(f"{words.num_labels:,} labels of {words.table.num_rows:,} words, {words.num_uses:,} uses of labels")
    _print_rows(shown)
    print("\nto cover the same share of the labels' uses")
    _print_rows(words.compared.to_pylist())


@contextmanager
def _frequencies(folder: Path) -> Iterator[Path]:
    """`folder` if it holds tag frequencies, else a temporary folder of the frequencies of its posts."""
    from booru_embed_core.filesystem import scratch_folder
    from booru_embed_core.settings import DuckdbSettings
    from booru_embed_core.tags.frequency import count_tags, frequency_file

    if frequency_file(folder, Category.GENERAL).exists():
        yield folder
        return
    with scratch_folder() as frequencies:
        count_tags(folder, frequencies, DuckdbSettings())
        yield frequencies


@inspect_app.command("checkpoint")
def inspect_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Checkpoint folder.")] = CHECKPOINT,
    as_json: JsonOption = False,
) -> None:
    """Print the shape, sizes and provenance of a checkpoint, and what computes it here."""
    from booru_embed_core.embedder.backend import choose, find_and_read
    from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE
    from booru_embed_core.training.weights_file import WeightsFile

    folder, config, vocab = find_and_read(folder)
    chosen = {name: choose(folder, config, num_captions=num) for name, num in _ASKED.items()}
    facts: dict[str, Any] = {"num_tags": vocab.num_tags}
    has_checksum = True
    if chosen[_ONE].backend != "onnx":
        weights = WeightsFile.read(folder / WEIGHTS_FILE, config)
        weights.check_finite()
        has_checksum = weights.has_checksum
        facts = {"num_parameters": weights.num_parameters, **facts, "precision": weights.precision.value}
    facts |= {
        "has_checksum": has_checksum,
        "backends": {name: f"{one.backend}: {one.reason}" for name, one in chosen.items()},
        **config.model_dump(mode="json", exclude={"score_bin_edges"}),
    }
    if not has_checksum:
        say(
            f"note: {folder / WEIGHTS_FILE} has no checksum, as an older booru-embed wrote it: a changed bit is not "
            "noticed; `booru-embed export hub` writes a copy with one"
        )
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


@inspect_app.command("plan")
def inspect_plan(
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="Settings file; default: BOORU_EMBED_SETTINGS, or settings.toml."),
    ] = None,
    vocab: Annotated[Path, typer.Option("--vocab", help="Folder of the vocab.")] = WAREHOUSE / "vocab/current",
    packed: PackedOption = PACKED_TOKENS,
    mean_length: Annotated[
        int | None,
        typer.Option("--mean-length", min=1, max=65_535, help="Tags of every post, instead of a packed file."),
    ] = None,
    num_posts: Annotated[
        int, typer.Option("--posts", min=1, max=MAX_COUNT, help="Training posts, with --mean-length.")
    ] = 1_000_000,
    tflops: Annotated[
        float | None,
        typer.Option("--tflops", min=1e-6, max=1e9, help="TFLOP/s of the device, to estimate the time."),
    ] = None,
    float32_tflops: Annotated[
        float | None,
        typer.Option(
            "--float32-tflops",
            min=1e-6,
            max=1e9,
            help="TFLOP/s in float32, in which tags are scored; default: that of --tflops.",
        ),
    ] = None,
    device_name: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option("--device", help="Device to plan for, which may be missing here; default: that of the settings."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate a training: parameters, operations, peak memory, and time at a given throughput."""
    import numpy as np

    from booru_embed_core.settings import load_settings
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.batches import rows_of_split
    from booru_embed_core.tokens.packed_file import PackedFile
    from booru_embed_core.training.checkpoint import encoder_config
    from booru_embed_core.training.plan import plan_facts, plan_training

    chosen, made_with = load_settings(settings), Vocab.load(vocab)
    if mean_length is None:
        file = PackedFile.open(packed_file(packed), made_with.hash)
        lengths = np.diff(file.offsets).astype(np.int64)[rows_of_split(file, "train")]
    else:
        lengths = np.full(num_posts, mean_length, dtype=np.int64)
    device, dtype = _planned_for(chosen.training, device_name)
    config = encoder_config(made_with, chosen.model)
    on_gpu = device.type == "cuda"
    plan = plan_training(config, chosen.training, lengths, dtype, on_gpu, made_with.counts)
    facts = plan_facts(plan, chosen.training.num_epochs, tflops, float32_tflops)
    if as_json:
        print_json({"device": device.type, "precision": str(dtype).removeprefix("torch."), **facts})
        return
    print(f"{device.type}, {str(dtype).removeprefix('torch.')}")
    for name, fact in facts.items():
        values = fact if isinstance(fact, dict) else {"": fact}
        print_table([(name.replace("_", " "), key, _counted(value)) for key, value in values.items()])


def _planned_for(training: TrainingSettings, device_name: str | None) -> tuple[torch.device, torch.dtype]:
    """The device, which may be missing here, and the trunk's dtype there."""
    import torch

    from booru_embed_core.training.hardware import pick_device, pick_dtype

    device = pick_device(training.device) if device_name is None else torch.device(device_name)
    is_elsewhere = device.type == "cuda" and not torch.cuda.is_available()
    precision = "bf16" if is_elsewhere and training.precision == "auto" else training.precision
    return device, pick_dtype(precision, device)


def _counted(value: float | None) -> str:
    """A count with thousands separators; in scientific notation from 1e12."""
    if value is None:
        return "-"
    return f"{value:.4g}" if value >= 1e12 else f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def _print_rows(rows: list[dict[str, Any]]) -> None:
    """Prints `rows` below their column names; shares as per cent, counts with separators."""
    if rows:
        print_table(
            [tuple(name.replace("_", " ") for name in rows[0]), *(tuple(map(_shown, row.values())) for row in rows)]
        )


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else str(value)
