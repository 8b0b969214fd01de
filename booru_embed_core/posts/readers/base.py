"""What every kind of export file gives to ``files.py``: typed batches, and any line again with what is wrong with it.

The kinds are in ``delimited.py``, ``json_lines.py`` and ``parquet.py``. Here are the interface and what they share:
the SQL that turns text into the values of a post, NULL where the text is unfit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.database import quoted
from booru_embed_core.posts.names import DANBOORU, Names
from booru_embed_core.posts.validation import FALSE_WORDS, TRUE_WORDS, ExportError, has_all_tags
from booru_embed_core.schema import ALL_TAGS_COLUMN, FLAG_COLUMNS, TAG_COLUMNS

HIDDEN_COLUMN: Final = "is_hidden"
"""Column of a source's batches: whether one of the post's `FLAG_COLUMNS` is true."""

BATCH_RECORDS: Final = 131_072


class Reader(Protocol):
    """One file of an export. `num_records` and `malformed` are final once `batches` has been drained."""

    @property
    def num_records(self) -> int:
        """Records counted without the parser that makes the batches."""

    @property
    def malformed(self) -> NDArray[np.int64]:
        """Line numbers (int64, ascending) of records that are in no batch."""

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:
        """The other records in the file's order: `POST_COLUMNS` and `HIDDEN_COLUMN`, null where a value is unfit.

        Where the file has all tags in one, `ALL_TAGS_COLUMN` takes the place of `TAG_COLUMNS`.
        """

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """Line numbers of `record`, which counts the records of the batches from 0."""

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """Line number, raw text and what is wrong with it (None: nothing) of each of `lines`, which ascend."""


def fit_values(
    text_of: Callable[[str], str], columns: Collection[str], names: Names = DANBOORU, *, check_breaks: bool
) -> str:
    """The select list of a source's batches from the text ``text_of(column)``, an SQL expression.

    Values are cast here from text: DuckDB's own casts would take ``1.5`` for 2 and ``1e3`` for 1000. With
    `check_breaks` tags with a line break are unfit; where a line is a record there can be none.
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
    # Nearly all numbers are written as DuckDB would write them, which is told sooner than by the pattern.
    is_plain, is_number = f"{number}::varchar = {text}", f"regexp_full_match({text}, '-?[0-9]{{1,19}}')"
    return f"case when {is_plain} then {number} when {is_number} then {number} end"


def _flag(text: str) -> str:
    true, false = (", ".join(map(quoted, words)) for words in (TRUE_WORDS, FALSE_WORDS))
    return f"(case when {text} in ({true}) then true when {text} in ({false}) then false end)"


def run_on(
    connection: duckdb.DuckDBPyConnection, query: str, records: pa.Table, file: Path
) -> Iterator[pa.RecordBatch]:
    """Batches of `query`, which reads the table ``records``, in its order.

    Raises:
        ExportError: DuckDB cannot do it; names `file`.
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
    first_line = str(error).partition("\n")[0]
    return ExportError(f"{file}: cannot be parsed ({first_line}); check the file")
