"""The interface of a reader, and the SQL that readers share: text to a post's values, NULL where one is invalid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final, Protocol

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.errors import first_line
from booru_embed_core.posts.database import quoted
from booru_embed_core.posts.names import DANBOORU, Names
from booru_embed_core.posts.readers.lines import first_bytes
from booru_embed_core.posts.validation import FALSE_WORDS, TRUE_WORDS, ExportError, has_all_tags
from booru_embed_core.schema import ALL_TAGS_COLUMN, FLAG_COLUMNS, TAG_COLUMNS

HIDDEN_COLUMN: Final = "is_hidden"
"""Column of a reader's batches: whether one of the post's `FLAG_COLUMNS` is true."""

BATCH_RECORDS: Final = 131_072


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

    def __init__(self, path: Path, names: Names = DANBOORU) -> None: ...

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

        A file with all tags in one field has `ALL_TAGS_COLUMN` instead of `TAG_COLUMNS`. `scratch` is an empty folder.
        """

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lines of `record` (int64 `[n]`), which counts the records of the batches from 0."""

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """Line, raw text and problem (None where there is none) of each of `lines`, which ascend."""


def fit_values(
    text_of: Callable[[str], str], columns: Collection[str], names: Names = DANBOORU, *, check_breaks: bool
) -> str:
    """The select list of a reader's batches, from ``text_of(column)``: an SQL expression that gives a column as text.

    Values are cast here from text: DuckDB's own casts would take ``1.5`` for 2 and ``1e3`` for 1000. With
    `check_breaks` a tag with a line break is invalid; formats of one record a line cannot hold one.
    """
    ratings = " ".join(f"when {quoted(word)} then {quoted(rating)}" for word, rating in names.ratings.items())
    fields = (ALL_TAGS_COLUMN,) if has_all_tags(columns) else TAG_COLUMNS
    tags = [text_of(name) for name in fields]
    if check_breaks:
        tags = [
            f"case when not contains({tag}, chr(10)) and not contains({tag}, chr(13)) then {tag} end" for tag in tags
        ]
    flags = [_flag(text_of(name)) for name in FLAG_COLUMNS if name in columns]
    return ", ".join(
        [
            f"{_number(text_of('id'), 'bigint')} as id",
            f"case {text_of('rating')} {ratings} end as rating",
            f"{_number(text_of('score'), 'integer')} as score",
            *(f"{tag} as {name}" for tag, name in zip(tags, fields, strict=True)),
            _hidden(flags),
        ]
    )


def _hidden(flags: Sequence[str]) -> str:
    # A plain `or` would hide a post with one true flag and one that is neither, instead of rejecting it.
    known = " and ".join(f"{flag} is not null" for flag in flags)
    return (
        f"case when {known} then {' or '.join(flags)} end as {HIDDEN_COLUMN}" if flags else f"false as {HIDDEN_COLUMN}"
    )


def _number(text: str, type_name: str) -> str:
    number = f"try_cast({text} as {type_name})"
    # Nearly all numbers are written as DuckDB would write them, and comparing is faster than the pattern.
    is_plain, is_number = f"{number}::varchar = {text}", f"regexp_full_match({text}, '-?[0-9]{{1,19}}')"
    return f"case when {is_plain} then {number} when {is_number} then {number} end"


def _flag(text: str) -> str:
    true, false = (", ".join(map(quoted, words)) for words in (TRUE_WORDS, FALSE_WORDS))
    value = f"coalesce({text}, '')"
    return f"(case when {value} in ({true}) then true when {value} in ({false}, '') then false end)"


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
        raise parse_error(file, error) from error
    finally:
        connection.unregister("records")


def parse_error(file: Path, error: Exception) -> ExportError:
    """The error of a file that cannot be parsed."""
    return ExportError(f"{file}: cannot be parsed ({first_line(error)}); check the file")
