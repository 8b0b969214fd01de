"""The command line: ``booru-embed ingest | embed | complete | similar | evaluate | inspect``.

Exit code 0 on success, 2 for wrong use, 1 for a failure. Both say why in one line on stderr (``--debug`` adds the
traceback of a failure).
``--json`` prints one JSON value on stdout, and nothing else goes there. What belongs here: options and printing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import click
import typer

from booru_embed_core.schema import RATINGS, SPLITS, Category, Output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from booru_embed_core.serving.embedder import BooruEmbedder
    from booru_embed_core.tokens.packed_file import PackedFile

WAREHOUSE: Final = Path("data/warehouse")

app = typer.Typer(name="booru-embed", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
inspect_app = typer.Typer(no_args_is_help=True, help="Look into a vocabulary, a packed file or a checkpoint.")
app.add_typer(inspect_app, name="inspect")

Rating = StrEnum("Rating", {rating: rating for rating in RATINGS})  # type: ignore[misc]  # choices come from the schema


class Hide(StrEnum):
    """How many tags of a post are hidden."""

    ONE = "one"
    HALF = "half"


CheckpointOption = Annotated[
    Path, typer.Option("--checkpoint", "-c", help="Folder of a checkpoint.", metavar="DIR", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
RatingOption = Annotated[
    Rating | None, typer.Option("--rating", help="Rating of the image, given to the model; withheld by default.")
]
ScoreOption = Annotated[int | None, typer.Option("--score", help="Score of the image; needs --rating.")]
CategoryOption = Annotated[Category | None, typer.Option("--category", help="Only tags of this category.")]
CountOption = Annotated[int, typer.Option("-k", min=1, help="How many tags.")]
CAPTION_HELP: Final = 'Tags, as "1girl, cat ears" or "1girl cat_ears".'


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """A set of Danbooru tags as one low-dimensional vector."""
    # Read by `main` before this runs, since it also guards the parsing; declared here for --help.


@app.command()
def ingest(
    sources: Annotated[list[str], typer.Argument(help="Files, globs or folders of an export.", metavar="SOURCE...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the posts.", metavar="DIR")],
    to: Annotated[Output, typer.Option("--to", help="Parquet parts, or one text file.")] = Output.PARQUET,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many posts.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read an export, set aside what is unfit, and write each post once."""
    from booru_embed_core.posts.ingest import ingest as ingest_export
    from booru_embed_core.settings import DuckdbSettings, PostsSettings

    report = ingest_export(sources, out, to, PostsSettings(limit_posts=limit), DuckdbSettings())
    if as_json:
        _print_json(json.loads(report.to_json()))
    else:
        print(f"{out}: {report.summary}")


@app.command()
def embed(
    captions: Annotated[list[str], typer.Argument(help=CAPTION_HELP + " Several captions give several vectors.")],
    checkpoint: CheckpointOption = WAREHOUSE / "checkpoint/current",
    rating: RatingOption = None,
    score: ScoreOption = None,
    dim: Annotated[int | None, typer.Option(min=1, help="Numbers of the vector; the first ones of the whole.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a .npy file instead.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the embedding of each caption: a unit vector, one line a caption."""
    if output is not None and as_json:
        raise click.UsageError("--output writes a .npy file and --json prints: give one of them.")
    embedder = _load(checkpoint, rating, score, dim)
    vectors, unknown = _reporting_unknown(embedder, captions, lambda: embedder.embed(captions, rating, score, dim))
    if output is not None:
        _save_npy(output, vectors)
    elif as_json:
        rows = zip(captions, unknown, vectors, strict=True)
        _print_json(
            {
                "dim": vectors.shape[1],
                "embeddings": [{"caption": c, "unknown": u, "vector": [float(x) for x in v]} for c, u, v in rows],
            }
        )
    else:
        for vector in vectors:
            print("\t".join(f"{x:.6f}" for x in vector))


@app.command()
def complete(
    caption: Annotated[str, typer.Argument(help=CAPTION_HELP)],
    k: CountOption = 10,
    category: CategoryOption = None,
    checkpoint: CheckpointOption = WAREHOUSE / "checkpoint/current",
    rating: RatingOption = None,
    score: ScoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the tags that most probably belong to the caption as well, never one that is there already."""
    embedder = _load(checkpoint, rating, score)
    found, unknown = _reporting_unknown(
        embedder, [caption], lambda: embedder.complete(caption, k, category, rating, score)
    )
    if as_json:
        _print_json({"completions": [tag._asdict() for tag in found], "unknown": unknown[0]})
    else:
        _print_table([(f"{tag.probability:7.2%}", tag.category.value, tag.tag) for tag in found])


@app.command()
def similar(
    tag: Annotated[str, typer.Argument(help="One tag.")],
    k: CountOption = 10,
    category: CategoryOption = None,
    checkpoint: CheckpointOption = WAREHOUSE / "checkpoint/current",
    as_json: JsonOption = False,
) -> None:
    """Print the tags whose embeddings are nearest to that of one tag."""
    found = _load(checkpoint).similar_tags(tag, k, category)
    if as_json:
        _print_json({"tag": tag, "neighbours": [neighbour._asdict() for neighbour in found]})
    else:
        _print_table([(f"{one.similarity:7.4f}", one.category.value, one.tag) for one in found])


@app.command()
def evaluate(
    posts: Annotated[Path, typer.Option("--posts", help="Export with posts to test on.", metavar="FILE")],
    checkpoint: CheckpointOption = WAREHOUSE / "checkpoint/current",
    hide: Annotated[Hide, typer.Option("--hide", help="Hide one tag of each post, or half of them.")] = Hide.ONE,
    seed: Annotated[int, typer.Option(min=0, help="Decides which tags are hidden.")] = 7,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", help="The packed file that the checkpoint was trained on; found in its warehouse."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure held-out-tag prediction on posts of your own, beside baselines fitted on the training split."""
    from booru_embed_core.evaluation.report import evaluate_captions
    from booru_embed_core.evaluation.scorers import model_scorers
    from booru_embed_core.evaluation.tasks import captions_from_packed
    from booru_embed_core.evaluation.tuning import baselines_from_packed
    from booru_embed_core.settings import EvaluationSettings
    from booru_embed_core.training.checkpoint import load_checkpoint
    from booru_embed_core.training.loop import pick_device

    model, config, vocab = load_checkpoint(checkpoint, pick_device("auto"))
    packed = _training_tokens(tokens, checkpoint, config.packed_tokens, vocab.hash)
    with tempfile.TemporaryDirectory(prefix="booru-embed-") as folder:
        tested = _pack(posts, Path(folder), vocab)
        every = _range(tested.num_posts)
        captions, post_ids = captions_from_packed(tested, vocab, every), tested.post_id.copy()
    _warn_of_training_posts(packed, post_ids)
    baselines = baselines_from_packed(packed, vocab, EvaluationSettings(), lambda line: print(line, file=sys.stderr))
    result = evaluate_captions(model_scorers(model), baselines, captions, post_ids, hide.value, seed)
    if as_json:
        _print_json(result)
        return
    names = list(next(iter(result["models"].values())))
    print(f"{result['num_posts']:,} posts, {hide.value} hidden, seed {seed}")
    rows = [(name, *(f"{metrics[n]:.3f}" for n in names)) for name, metrics in result["models"].items()]
    _print_table([("", *names), *rows])


@inspect_app.command("vocab")
def inspect_vocab(
    folder: Annotated[Path, typer.Argument(help="Folder of a vocab or a checkpoint.")] = WAREHOUSE / "vocab/current",
    search: Annotated[str, typer.Option(help="List the tags that contain this.")] = "",
    category: CategoryOption = None,
    k: CountOption = 20,
    as_json: JsonOption = False,
) -> None:
    """Sizes and the most used tags of a vocabulary."""
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
    if as_json:
        _print_json({"num_tags": vocab.num_tags, "sizes": sizes, "sha256": vocab.hash, "tags": rows[:k]})
        return
    print(f"{vocab.num_tags:,} tags: " + ", ".join(f"{size:,} {name}" for name, size in sizes.items()))
    _print_table([(f"{row['count']:,}", str(row["category"]), str(row["tag"])) for row in rows[:k]])


@inspect_app.command("tokens")
def inspect_tokens(
    file: Annotated[Path, typer.Argument(help="A packed file.")] = WAREHOUSE
    / "packed_tokens/current/tokens.safetensors",
    as_json: JsonOption = False,
) -> None:
    """Records, tokens, splits and caption lengths of a packed file."""
    import numpy as np

    from booru_embed_core.tokens.packed_file import PackedFile

    packed = PackedFile.open(file)
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
    _print_facts(facts, as_json)


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
    _print_facts(facts, as_json)


def main() -> None:
    """Runs the command line and exits with its code."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    is_debug = len(arguments) < len(sys.argv) - 1
    try:
        code = app(arguments, prog_name=app.info.name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else app.info.name
        print(f"error: {_one_line(error.format_message())} See `{command} --help`", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read the output has enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except click.exceptions.Abort:
        code = 130
    except (ValueError, OSError) as error:
        if is_debug:
            raise
        print(f"error: {_one_line(str(error)) or type(error).__name__}", file=sys.stderr)
        code = 1
    sys.exit(code or 0)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _load(
    checkpoint: Path, rating: str | None = None, score: int | None = None, dim: int | None = None
) -> BooruEmbedder:
    """The embedder; wrong combinations of options end with exit code 2."""
    if score is not None and rating is None:
        raise click.BadOptionUsage("score", "--score needs --rating: scores are compared among posts of one rating.")
    from booru_embed_core.serving.embedder import BooruEmbedder

    embedder = BooruEmbedder.load(checkpoint)
    if dim is not None and dim > embedder.embedding_dim:
        raise click.BadOptionUsage("dim", f"--dim {dim} is more than the {embedder.embedding_dim} numbers there are.")
    return embedder


def _reporting_unknown(
    embedder: BooruEmbedder, captions: list[str], act: Callable[[], Any]
) -> tuple[Any, list[list[str]]]:
    """What `act` returns, and the unknown tags of each caption, which are also named on stderr."""
    from booru_embed_core.serving.embedder import UnknownTagsWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnknownTagsWarning)
        result = act()
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return result, [list(embedder.tokenizer.encode(caption).unknown) for caption in captions]


def _save_npy(output: Path, vectors: NDArray[np.float32]) -> None:
    import numpy as np

    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent}: no such folder, for --output {output.name}; create it first")
    partial = output.with_name(output.name + ".partial")
    with partial.open("wb") as stream:
        np.save(stream, vectors)
    partial.replace(output)
    print(f"{output}: float32 {list(vectors.shape)}", file=sys.stderr)


def _training_tokens(given: Path | None, checkpoint: Path, version: str, vocab_hash: str) -> PackedFile:
    from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile

    file = given or checkpoint.resolve().parent.parent / "packed_tokens" / version / PACKED_FILE
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: no such file, and the baselines are fitted on it; name the packed file that the checkpoint was "
            "trained on with --tokens"
        )
    return PackedFile.open(file, vocab_hash)


def _pack(posts: Path, folder: Path, vocab: Any) -> PackedFile:
    from booru_embed_core.posts.files import expand_export, read_posts
    from booru_embed_core.settings import DuckdbSettings, PostsSettings, TokensSettings
    from booru_embed_core.tokens.encode import encode_posts
    from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile

    for name in ("posts", "tokens"):
        (folder / name).mkdir()
    report = read_posts(expand_export([str(posts)], Path()), folder / "posts", PostsSettings(), DuckdbSettings())
    encode_posts(folder / "posts", vocab, folder / "tokens", TokensSettings())
    print(f"{posts}: {report.summary}", file=sys.stderr)
    return PackedFile.open(folder / "tokens" / PACKED_FILE)


def _range(stop: int) -> NDArray[np.int64]:
    import numpy as np

    return np.arange(stop, dtype=np.int64)


def _warn_of_training_posts(packed: PackedFile, post_ids: NDArray[np.int64]) -> None:
    import numpy as np

    from booru_embed_core.tokens.batches import rows_of_split

    seen = int(np.isin(post_ids, packed.post_id[rows_of_split(packed, "train")]).sum())
    if seen:
        print(f"warning: {seen:,} of {len(post_ids):,} posts were trained on; figures flatter", file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(facts)
    else:
        _print_table([(name, value if isinstance(value, str) else json.dumps(value)) for name, value in facts.items()])


def _print_table(rows: list[tuple[str, ...]]) -> None:
    if rows:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
