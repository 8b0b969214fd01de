"""``booru-embed inspect``: what is in a vocabulary, a packed file, a checkpoint, what a training takes; and how the
command line prints.

What belongs here: options and printing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from booru_embed_core.cli.shared import (
    WAREHOUSE,
    CategoryOption,
    CountOption,
    JsonOption,
    print_facts,
    print_json,
    print_table,
)
from booru_embed_core.schema import SPLITS, Category

inspect_app = typer.Typer(no_args_is_help=True, help="Look into tags, a vocabulary, a packed file or a checkpoint.")


@inspect_app.command("vocab")
def inspect_vocab(
    folder: Annotated[Path, typer.Argument(help="Folder of a vocab or a checkpoint.")] = WAREHOUSE / "vocab/current",
    search: Annotated[str, typer.Option(help="List the tags that contain this.")] = "",
    category: CategoryOption = None,
    k: CountOption = 20,
    as_json: JsonOption = False,
) -> None:
    """Sizes and the most used tags of a vocabulary, and what its cut lost."""
    from booru_embed_core.schema import CATEGORIES
    from booru_embed_core.tags.build import what_is_lost
    from booru_embed_core.tags.vocab import Vocab

    vocab = Vocab.load(folder)
    rows = [
        {"token_id": vocab.num_special + i, "category": CATEGORIES[c].value, "tag": tag, "count": int(vocab.counts[i])}
        for i, (tag, c) in enumerate(zip(vocab.tags, vocab.categories.tolist(), strict=True))
        if search.lower() in tag.lower() and category in (None, CATEGORIES[c])
    ]
    rows.sort(key=lambda row: (-row["count"], row["token_id"]))
    sizes = {one.value: size for one, size in vocab.sizes.items()}
    lost = what_is_lost(vocab).to_pylist()
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
    file: Annotated[Path, typer.Argument(help="A packed file, or its folder.")] = WAREHOUSE
    / "packed_tokens/current/tokens.safetensors",
    vocab: Annotated[
        Path | None, typer.Option("--vocab", help="Its vocab: then unknown tokens are not counted as tags.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Records, tokens, splits and caption lengths of a packed file, and how many posts have hardly a tag left."""
    import numpy as np

    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.lengths import short_posts
    from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile

    made_with = Vocab.load(vocab) if vocab else None
    file = file / PACKED_FILE if file.is_dir() else file
    packed = PackedFile.open(file, made_with.hash if made_with else None)
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
    print_facts(facts, as_json)
    print("\nposts with")
    _print_rows(short)


@inspect_app.command("words")
def inspect_words(
    folder: Annotated[Path, typer.Argument(help="Folder of tag frequencies, or of posts, which are then counted.")] = (
        WAREHOUSE / "tag_frequencies/current"
    ),
    category: CategoryOption = None,
    k: CountOption = 20,
    as_json: JsonOption = False,
) -> None:
    """Words that labels are made of, to compare with labels; the tokenizer knows whole labels alone."""
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
    print("\nthe same share of the labels' uses needs")
    _print_rows(words.compared.to_pylist())


@contextmanager
def _frequencies(folder: Path) -> Iterator[Path]:
    """A folder of tag frequencies: `folder`, or one that is made of the posts in it and removed afterwards."""
    from booru_embed_core.settings import DuckdbSettings
    from booru_embed_core.tags.frequency import count_tags, frequency_file

    if frequency_file(folder, Category.GENERAL).exists():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="booru-embed-") as made:
        count_tags(folder, Path(made), DuckdbSettings())
        yield Path(made)


@inspect_app.command("checkpoint")
def inspect_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")] = WAREHOUSE / "checkpoint/current",
    as_json: JsonOption = False,
) -> None:
    """Shape, sizes and provenance of a checkpoint."""
    from booru_embed_core.training.checkpoint import load_checkpoint

    model, config, vocab = load_checkpoint(folder)
    facts = {
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_tags": vocab.num_tags,
        **config.model_dump(mode="json", exclude={"score_bin_edges"}),
    }
    print_facts(facts, as_json)


@inspect_app.command("plan")
def inspect_plan(
    settings: Annotated[
        Path | None, typer.Option("--settings", help="Settings file; else BOORU_EMBED_SETTINGS, else settings.toml.")
    ] = None,
    vocab: Annotated[Path, typer.Option("--vocab", help="Folder of the vocab.")] = WAREHOUSE / "vocab/current",
    packed: Annotated[Path, typer.Option("--packed", help="A packed file, or its folder.")] = WAREHOUSE
    / "packed_tokens/current/tokens.safetensors",
    mean_length: Annotated[
        int | None, typer.Option("--mean-length", min=1, help="Tags of every post, in place of a packed file.")
    ] = None,
    num_posts: Annotated[int, typer.Option("--posts", min=1, help="Training posts, with --mean-length.")] = 1_000_000,
    tflops: Annotated[
        float | None, typer.Option("--tflops", min=1e-6, help="What the device does in a second.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a training will take: parameters, operations, peak memory, and time on a device of a given throughput."""
    import numpy as np

    from booru_embed_core.settings import load_settings
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.batches import rows_of_split
    from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
    from booru_embed_core.training.checkpoint import encoder_config
    from booru_embed_core.training.hardware import pick_device, pick_dtype
    from booru_embed_core.training.plan import plan_facts, plan_training

    chosen, made_with = load_settings(settings), Vocab.load(vocab)
    if mean_length is None:
        file = PackedFile.open(packed / PACKED_FILE if packed.is_dir() else packed, made_with.hash)
        lengths = np.diff(file.offsets).astype(np.int64)[rows_of_split(file, "train")]
    else:
        lengths = np.full(num_posts, mean_length, dtype=np.int64)
    device = pick_device(chosen.training.device)
    dtype = pick_dtype(chosen.training.precision, device)
    config = encoder_config(made_with, chosen.model)
    steps = {"bucket_step": 1} if device.type == "cuda" else {}
    plan = plan_training(config, chosen.training, lengths, dtype.itemsize, **steps)
    facts = plan_facts(plan, chosen.training.num_epochs, tflops)
    if as_json:
        print_json({"device": device.type, "precision": str(dtype).removeprefix("torch."), **facts})
        return
    print(f"{device.type}, {str(dtype).removeprefix('torch.')}")
    for name, fact in facts.items():
        parts = fact if isinstance(fact, dict) else {"": fact}
        print_table([(name.replace("_", " "), part, _counted(value)) for part, value in parts.items()])


def _counted(value: float | None) -> str:
    """A count with its digits in threes; in powers of ten where it has too many."""
    if value is None:
        return "-"
    return f"{value:.4g}" if value >= 1e12 else f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def _print_rows(rows: list[dict[str, Any]]) -> None:
    """Prints `rows` below the names of their columns, numbers as people read them."""
    if rows:
        print_table(
            [tuple(name.replace("_", " ") for name in rows[0]), *(tuple(map(_shown, row.values())) for row in rows)]
        )


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else str(value)
