"""What the commands share: options, captions with a minus, the embedder, output files, and how results are printed."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperOption

from booru_embed_core.cli.streams import print_message
from booru_embed_core.errors import disk_errors
from booru_embed_core.filesystem import atomic_file
from booru_embed_core.outputs import check_output_file
from booru_embed_core.schema import RATINGS, Category

if TYPE_CHECKING:
    import click

    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.embedder.results import Normalized

    UsageError = click.UsageError
else:  # click's class, or, since typer 0.26, the same of a copy in typer, which exports only classes derived from it
    UsageError = typer.BadParameter.__base__

WAREHOUSE: Final = Path("data/warehouse")
CHECKPOINT: Final = WAREHOUSE / "checkpoint/current"
PACKED_TOKENS: Final = WAREHOUSE / "packed_tokens/current/tokens.safetensors"
POST_EMBEDDINGS: Final = WAREHOUSE / "post_embeddings/current"

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CategoryOption = Annotated[Category | None, typer.Option("--category", help="Only tags of this category.")]
MAX_COUNT: Final = 1_000_000_000
"""The most that an option may ask for of anything."""
MAX_SCORE: Final = 2**31 - 1
"""The highest score of a post."""
MAX_SEED: Final = 2**63 - 1
CountOption = Annotated[int, typer.Option("-k", min=1, max=MAX_COUNT, help="How many tags.")]
CheckpointOption = Annotated[Path, typer.Option("--checkpoint", "-c", help="Checkpoint folder.", metavar="DIR")]
PackedOption = Annotated[Path, typer.Option("--packed", help="Packed file, or its folder.", metavar="FILE")]

Rating = StrEnum("Rating", {rating: rating for rating in RATINGS})  # type: ignore[misc]  # choices come from the schema

RatingOption = Annotated[
    Rating | None, typer.Option("--rating", help="Rating of the image, given to the model; withheld by default.")
]
ScoreOption = Annotated[
    int | None,
    typer.Option("--score", min=-MAX_SCORE, max=MAX_SCORE, help="Score of the image; needs --rating."),
]
CAPTION_HELP: Final = 'Tags, such as "1girl, cat ears" or "1girl cat_ears".'

_ATTACHED: Final = re.compile(r"-[kn]\d+")
"""An option with its value in one argument."""


class TagsCommand(TyperCommand):
    """A command whose argument may begin with a minus: ``search "-solo hat"``, ``similar -_-``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As in click, but the only argument that no option explains is the text."""
        takes_value = {
            name: not param.is_flag for param in self.params if isinstance(param, TyperOption) for name in param.opts
        }
        left: list[int] = []
        index = 0
        while index < len(args) and args[index] != "--":
            name, equals, _ = args[index].partition("=")
            if name in takes_value or name in ctx.help_option_names:
                index += takes_value.get(name, False) and not equals
            elif not _ATTACHED.fullmatch(args[index]):
                left.append(index)
            index += 1
        if index == len(args) and len(left) == 1 and not args[left[0]].startswith("--"):
            args = [*args[: left[0]], *args[left[0] + 1 :], "--", args[left[0]]]
        return super().parse_args(ctx, args)


def packed_file(path: Path) -> Path:
    """The packed file that `path` names: itself, or the one in that folder."""
    from booru_embed_core.tokens.packed_file import PACKED_FILE

    return path / PACKED_FILE if path.is_dir() else path


@contextmanager
def output_file(output: Path) -> Iterator[Path]:
    """A path to write to; it becomes `output` when the block ends without an error.

    Raises:
        FileNotFoundError, ForeignPathError: see `check_output_file`, which is called before the work as well.
        DiskError: its disk is full, read-only or closed to this user.
    """
    check_output_file(output)
    with atomic_file(output) as partial, disk_errors(output.absolute().parent, "choose an --output on another disk"):
        yield partial


def say(line: str) -> None:
    """Prints `line` on stderr, where it cannot mix with results."""
    print_message(line)


@contextmanager
def unknown_tags_on_stderr() -> Iterator[None]:
    """Prints the warnings of the block about unknown tags on stderr, one line each."""
    from booru_embed_core.embedder.results import UnknownTagsWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnknownTagsWarning)
        yield
    for warning in dict.fromkeys(str(warning.message) for warning in caught):
        say(f"warning: {warning}")


def load_embedder(
    checkpoint: Path,
    rating: str | None = None,
    score: int | None = None,
    dim: int | None = None,
    *,
    num_captions: int | None = None,
) -> BooruEmbedder:
    """The embedder, by what is fastest for `num_captions`; options that contradict each other end with exit code 2."""
    if score is not None and rating is None:
        raise UsageError("--score needs --rating: scores are compared among posts of one rating.")
    from booru_embed_core.embedder.embedder import BooruEmbedder

    embedder = BooruEmbedder.load(checkpoint, num_captions=num_captions)
    if dim is not None and dim > embedder.embedding_dim:
        raise UsageError(f"--dim {dim} exceeds the embedding's {embedder.embedding_dim} numbers.")
    return embedder


def read_captions(embedder: BooruEmbedder, captions: list[str]) -> list[Normalized]:
    """How `captions` were read; prints the notes on that on stderr."""
    read = [embedder.normalize(caption) for caption in captions]
    for note in dict.fromkeys(note for one in read for note in one.notes):
        say(f"note: {note}")
    return read


def print_json(value: Any) -> None:
    """Prints `value` as one line of JSON."""
    # A terminal of another encoding shows escapes, which every program reads.
    print(json.dumps(value, ensure_ascii=(sys.stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")))


def print_facts(facts: dict[str, Any]) -> None:
    """Prints `facts`, one line each; what is not a string as JSON."""
    print_table([(name, value if isinstance(value, str) else json.dumps(value)) for name, value in facts.items()])


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Prints `rows` with aligned columns."""
    if rows:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
