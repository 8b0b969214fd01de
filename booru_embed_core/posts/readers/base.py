"""The interface of a reader, and the SQL that readers share: text to a post's values, NULL where one is invalid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final, Protocol, runtime_checkable

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.errors import first_line
from booru_embed_core.posts.conventions import DANBOORU, NULL_WORDS, Conventions, flag_words
from booru_embed_core.posts.database import is_out_of_resources, quoted
from booru_embed_core.posts.readers.lines import first_bytes
from booru_embed_core.posts.validation import ExportError, has_all_tags
from booru_embed_core.schema import ALL_TAGS_COLUMN, FLAG_COLUMNS, TAG_COLUMNS

HIDDEN_COLUMN: Final = "is_hidden"
"""Column of a reader's batches: whether one of the post's `FLAG_COLUMNS` is true."""

PATH_COLUMN: Final = "path"
"""Column of some readers' batches: the path of a post's file, relative to the folder that is read."""

BATCH_RECORDS: Final = 131_072
_EMPTY: Final = "cast(null as varchar)"


@dataclass(frozen=True)
class ExportPath:
    """What a reader is chosen by.

    Attributes:
        path: a file, or a folder for a format that is one.
        ends_early: whether reading will hardly reach its end.
    """

    path: Path
    ends_early: bool = False

    @cached_property
    def start(self) -> bytes:
        """The first bytes of the file, unpacked and without a byte order mark; none of a folder.

        Raises:
            ExportError: its gzip or zstd stream is broken.
        """
        return b"" if self.path.is_dir() else first_bytes(self.path)


class Reader(Protocol):
    """One path of an export; columns and ratings are called by Danbooru's names in all that it gives.

    A "line" is the number by which a person finds a record, from 1: a physical line in text, a row elsewhere.
    `num_records` and `malformed` are final once `batches` has been drained.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """Ends of the format's file names, such as ``.csv``; readers are chosen by `opens`, whatever the name."""

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None: ...

    @property
    def num_records(self) -> int:
        """Records counted without the parser that makes the batches."""

    @property
    def malformed(self) -> NDArray[np.int64]:
        """Lines (int64, ascending) of records that are in no batch."""

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """Whether `candidate` is of this format."""

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:
        """The other records in their order: `POST_COLUMNS` and `HIDDEN_COLUMN`, null where a value is invalid.

        Tags come raw: text or lists of text as the file has them, null where there are none. A file with all tags in
        one field has `ALL_TAGS_COLUMN` instead of `TAG_COLUMNS`. A format whose posts are files has `PATH_COLUMN` too.
        `scratch` is an empty folder.
        """

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lines of `record` (int64 `[n]`), which counts the records of the batches from 0."""

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """Line, raw text and problem (None where there is none) of each of `lines`, which ascend."""


@runtime_checkable
class FilesReader(Reader, Protocol):
    """A reader whose posts are files: a "line" is a file's number, and batches have `PATH_COLUMN`.

    What it knows beside the posts is final once `batches` has been drained.
    """

    @property
    def tag_separator(self) -> str:
        """What separates the tags."""

    @property
    def other_namespaces(self) -> Mapping[str, int]:
        """How many tags have each namespace that has no category; it stays part of the tag."""

    def left_out(self, label: str) -> list[str]:
        """What is not read, in the words of reports that call the path `label`."""


def fit_values(text_of: Callable[[str], str], columns: Collection[str], conventions: Conventions = DANBOORU) -> str:
    """The select list of a reader's batches, from ``text_of(column)``: an SQL expression that gives a column as text.

    Tags come as they are, text or a list of text; ``tag_fields.py`` looks into them. Values are cast here from text:
    DuckDB's own casts would take ``1.5`` for 2 and ``1e3`` for 1000.
    """
    fields = (ALL_TAGS_COLUMN,) if has_all_tags(columns) else TAG_COLUMNS
    flags = [_flag(name, text_of(name), conventions) for name in FLAG_COLUMNS if name in columns]
    return ", ".join(
        [
            f"{_id(text_of, columns, conventions)} as id",
            f"{_rating(text_of, columns, conventions)} as rating",
            f"{_score(text_of, columns, conventions)} as score",
            *(f"{text_of(name) if name in columns else _EMPTY} as {name}" for name in fields),
            _hidden(flags),
        ]
    )


def _id(text_of: Callable[[str], str], columns: Collection[str], conventions: Conventions) -> str:
    if "id" not in columns:
        return "cast(null as bigint)"
    number = _number(text_of("id"), "bigint")
    # Ids of a site get its number in the bits above, so they must leave them free.
    return (
        f"(case when {number} between 0 and {conventions.max_id} then {number} end)" if conventions.has_site else number
    )


def _rating(text_of: Callable[[str], str], columns: Collection[str], conventions: Conventions) -> str:
    missing = "null" if conventions.missing_rating is None else quoted(conventions.missing_rating)
    if "rating" not in columns:
        return missing
    text = text_of("rating")
    cases = " ".join(f"when {quoted(word)} then {quoted(rating)}" for word, rating in conventions.ratings.items())
    rating = f"case {text} {cases} end"
    return rating if missing == "null" else f"coalesce({rating}, case when {_is_nothing(text)} then {missing} end)"


def _score(text_of: Callable[[str], str], columns: Collection[str], conventions: Conventions) -> str:
    missing = "null" if conventions.missing_score is None else str(conventions.missing_score)
    if "score" not in columns:
        return f"cast({missing} as integer)"
    text = text_of("score")
    number = _number(text, "integer")
    return (
        number
        if missing == "null"
        else f"coalesce({number}, case when {_is_nothing(text)} then cast({missing} as integer) end)"
    )


def _is_nothing(text: str) -> str:
    return f"coalesce({text}, '') in ('', {', '.join(map(quoted, NULL_WORDS))})"


def _hidden(flags: Sequence[str]) -> str:
    # A plain `or` would hide a post with one true flag and one that is neither, instead of rejecting it.
    known = " and ".join(f"{flag} is not null" for flag in flags)
    return (
        f"case when {known} then {' or '.join(flags)} end as {HIDDEN_COLUMN}" if flags else f"false as {HIDDEN_COLUMN}"
    )


def _number(text: str, type_name: str) -> str:
    number = f"try_cast({text} as {type_name})"
    # Nearly all numbers are written as DuckDB would write them, and comparing is faster than the pattern.
    is_plain, is_whole = f"{number}::varchar = {text}", f"regexp_full_match({text}, '-?[0-9]{{1,19}}(\\.0+)?')"
    whole = f"try_cast(string_split({text}, '.')[1] as {type_name})"
    return f"(case when {is_plain} then {number} when {is_whole} then {whole} end)"


def _flag(name: str, text: str, conventions: Conventions) -> str:
    true, false = flag_words(name, conventions)
    value = f"coalesce({text}, '')"
    is_true = f"{value} in ({', '.join(map(quoted, true))})"
    if false is None:
        return f"({is_true})"
    return f"(case when {is_true} then true when {value} in ({', '.join(map(quoted, false))}) then false end)"


def run_on(
    connection: duckdb.DuckDBPyConnection, query: str, records: pa.Table, file: Path
) -> Iterator[pa.RecordBatch]:
    """Batches of `query`, in the order of the table ``records`` that it reads.

    Raises:
        ExportError: DuckDB cannot run it; names `file`.
    """
    connection.register("records", records)
    try:
        yield from connection.sql(query).to_arrow_table().combine_chunks().to_batches()
    except (duckdb.Error, pa.ArrowInvalid) as error:
        if is_out_of_resources(error):  # told by `connect`, which knows the settings
            raise
        raise parse_error(file, error) from error
    finally:
        connection.unregister("records")


def parse_error(file: Path, error: Exception) -> ExportError:
    """The error of a file that cannot be parsed."""
    return ExportError(f"{file}: cannot be parsed ({first_line(error)}); check the file")
