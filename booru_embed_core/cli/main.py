"""The command line: ``booru-embed ingest | embed | complete | search | serve | …``; ``--help`` names all.

Exit code 0 on success, 2 for wrong use, 1 for a failure. Both say why in one line on stderr (``--debug`` adds the
traceback of a failure).
``--json`` prints one JSON value on stdout, and nothing else goes there. What belongs here: options and printing.
"""

from __future__ import annotations

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

from booru_embed_core.cli.export import export
from booru_embed_core.cli.ingest import ingest
from booru_embed_core.cli.inspect import inspect_app
from booru_embed_core.cli.search import duplicates, index, search
from booru_embed_core.cli.serve import serve
from booru_embed_core.cli.shared import (
    WAREHOUSE,
    CategoryOption,
    CountOption,
    JsonOption,
    print_json,
    print_table,
)
from booru_embed_core.schema import RATINGS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.tokens.packed_file import PackedFile

app = typer.Typer(name="booru-embed", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(inspect_app, name="inspect")

Rating = StrEnum("Rating", {rating: rating for rating in RATINGS})  # type: ignore[misc]  # choices come from the schema


class Hide(StrEnum):
    """How many tags of a post are hidden."""

    ONE = "one"
    HALF = "half"


CheckpointOption = Annotated[
    Path, typer.Option("--checkpoint", "-c", help="Folder of a checkpoint.", metavar="DIR", show_default=True)
]
RatingOption = Annotated[
    Rating | None, typer.Option("--rating", help="Rating of the image, given to the model; withheld by default.")
]
ScoreOption = Annotated[int | None, typer.Option("--score", help="Score of the image; needs --rating.")]
_EXTRAS: Final = dict.fromkeys(["duckdb", "matplotlib", "pyarrow", "scipy", "sklearn", "tokenizers"], "data") | {
    "torch": "torch",
    "faiss": "search",
    "fastapi": "serve",
    "uvicorn": "serve",
    "onnx": "export",
    "onnxruntime": "export",
}
"""What brings a package that a command needs and a small installation does not have."""
CAPTION_HELP: Final = 'Tags, as "1girl, cat ears" or "1girl cat_ears".'


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """A set of Danbooru tags as one low-dimensional vector."""
    # Read by `main` before this runs, since it also guards the parsing; declared here for --help.


for command in (ingest, export, search, index, duplicates, serve):
    app.command()(command)


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
        print_json(
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
        print_json({"completions": [tag._asdict() for tag in found], "unknown": unknown[0]})
    else:
        print_table([(f"{tag.probability:7.2%}", tag.category.value, tag.tag) for tag in found])


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
        print_json({"tag": tag, "neighbours": [neighbour._asdict() for neighbour in found]})
    else:
        print_table([(f"{one.similarity:7.4f}", one.category.value, one.tag) for one in found])


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
    from booru_embed_core.evaluation.tuning import baselines_from_packed
    from booru_embed_core.settings import EvaluationSettings
    from booru_embed_core.tokens.cooccurrence import captions_from_packed
    from booru_embed_core.training.checkpoint import load_checkpoint
    from booru_embed_core.training.hardware import pick_device

    model, config, vocab = load_checkpoint(checkpoint, pick_device("auto"))
    packed = _training_tokens(tokens, checkpoint, config.packed_tokens, vocab.hash)
    with tempfile.TemporaryDirectory(prefix="booru-embed-") as folder:
        tested = _pack(posts, Path(folder), vocab)
        every = _range(tested.num_posts)
        captions, post_ids = captions_from_packed(tested, vocab, every), tested.post_id.copy()
    _warn_of_training_posts(packed, post_ids)
    baselines = baselines_from_packed(packed, vocab, EvaluationSettings(), lambda line: print(line, file=sys.stderr))
    result = evaluate_captions(model_scorers(model), baselines, captions, post_ids, hide.value, seed, vocab.is_unknown)
    if as_json:
        print_json(result)
        return
    names = list(next(iter(result["models"].values())))
    print(f"{result['num_posts']:,} posts, {hide.value} hidden, seed {seed}")
    rows = [(name, *(f"{metrics[n]:.3f}" for n in names)) for name, metrics in result["models"].items()]
    print_table([("", *names), *rows])


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
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if is_debug or extra is None:
            raise
        print(f"error: {error.name} is not installed; pip install 'booru-embed[{extra}]'", file=sys.stderr)
        code = 1
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
    from booru_embed_core.embedder.embedder import BooruEmbedder

    embedder = BooruEmbedder.load(checkpoint)
    if dim is not None and dim > embedder.embedding_dim:
        raise click.BadOptionUsage("dim", f"--dim {dim} is more than the {embedder.embedding_dim} numbers there are.")
    return embedder


def _reporting_unknown(
    embedder: BooruEmbedder, captions: list[str], act: Callable[[], Any]
) -> tuple[Any, list[list[str]]]:
    """What `act` returns, and the unknown tags of each caption; these, and notes on what was read, go to stderr."""
    from booru_embed_core.embedder.embedder import UnknownTagsWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnknownTagsWarning)
        result = act()
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    encoded = [embedder.tokenizer.encode(caption) for caption in captions]
    for note in dict.fromkeys(note for one in encoded for note in one.notes):
        print(f"note: {note}", file=sys.stderr)
    return result, [list(one.unknown) for one in encoded]


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
    from booru_embed_core.posts.export_files import expand_export
    from booru_embed_core.posts.read_posts import read_posts
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
