"""Parquet exports, such as public metadata sets: columns by name, further ones ignored.

A field of tags is a string or a list of strings. It is called ``tag_string_general`` and so on; a list may also be
called ``general``, as in the ``posts`` table itself. A "line" is the row's number from 1. A row's raw text is a JSON
object of its columns that are read.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.base import BATCH_RECORDS, ExportPath, fit_values, parse_error, run_on
from booru_embed_core.posts.readers.lines import concatenated
from booru_embed_core.posts.validation import ExportError, check_columns, values_problem
from booru_embed_core.schema import (
    ALL_TAGS_COLUMN,
    CATEGORIES,
    FLAG_COLUMNS,
    POST_COLUMNS,
    TAG_COLUMNS,
    TAG_SEPARATOR,
    tag_column,
)


class ParquetReader:
    """A Parquet file; see `Reader`.

    Raises:
        ExportError: it is broken, or lacks a column.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        self._path = path
        self._conventions = conventions
        try:
            with pq.ParquetFile(path) as parquet:
                schema = parquet.schema_arrow
                self.num_records = int(parquet.metadata.num_rows)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a column's name may be no text
            raise parse_error(path, error) from error
        found = schema.names
        schema = pa.schema(
            [field.with_name(name) for field, name in zip(schema, conventions.canonical(found), strict=True)]
        )
        self._tag_columns = _tag_columns(schema)
        short = [name for name in self._tag_columns if name not in schema.names]
        check_columns([*found, *short], path, conventions)
        self._check_types(schema)
        others = [name for name in (*POST_COLUMNS, *FLAG_COLUMNS) if name not in TAG_COLUMNS and name in schema.names]
        self._columns = [*others, *dict.fromkeys(self._tag_columns.values())]
        self.malformed = concatenated([])

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`."""
        return candidate.start.startswith(b"PAR1")

    def _check_types(self, schema: pa.Schema) -> None:
        for name in ("rating", *self._tag_columns.values()):
            type_ = schema.field(name).type
            if not (_is_text(type_) or (name != "rating" and _is_list(type_))):
                raise ExportError(
                    f"{self._path}: column {self._conventions.source(name)} has the type {type_}, wanted string"
                    f"{'' if name == 'rating' else ' (tags separated by one space) or list<string>'}; write it so"
                )

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Reader`."""
        others = [name for name in self._columns if name not in self._tag_columns.values()]
        values = fit_values(_text_of, [*others, *self._tag_columns], self._conventions)
        query = f"select {values} from records"  # noqa: S608
        for batch in self._raw_batches():
            # Tags as strings; null where a list is invalid.
            fields = {column: _as_field(batch.column(name)) for column, name in self._tag_columns.items()}
            records = pa.table({**{name: batch.column(name) for name in others}, **fields})
            yield from run_on(connection, query, records, self._path)

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return record + 1

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`."""
        wanted = np.asarray(lines, dtype=np.int64) - 1
        start = 0
        for batch in self._raw_batches():
            first, last = np.searchsorted(wanted, [start, start + len(batch)])
            indices = wanted[first:last] - start
            for index, row in zip(indices.tolist(), batch.take(indices).to_pylist(), strict=True):
                values = {name: value if isinstance(value, list) else _text(value) for name, value in row.items()}
                raw = json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")
                yield start + index + 1, raw, self._problem(values)
            start += len(batch)

    def _problem(self, values: Mapping[str, Any]) -> str | None:
        tags = {name: values[name] for name in self._columns if name in self._tag_columns.values()}
        others: dict[str, str | None] = {name: values[name] for name in self._columns if name not in tags}
        problem = values_problem(others, self._conventions)
        return problem or next(filter(None, (_tags_problem(name, value) for name, value in tags.items())), None)

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        try:
            # pre_buffer would hold a whole row group in memory, and some sets are a single one.
            with pq.ParquetFile(self._path, pre_buffer=False, page_checksum_verification=True) as parquet:
                for raw in parquet.iter_batches(BATCH_RECORDS, columns=[*map(self._conventions.source, self._columns)]):
                    batch = raw.rename_columns(list(self._conventions.canonical(raw.schema.names)))
                    # Arrow does not check strings as it reads: bytes that are no UTF-8 would end up in the posts.
                    batch.validate(full=True)
                    yield batch
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise parse_error(self._path, error) from error


def _tag_columns(schema: pa.Schema) -> dict[str, str]:
    """The file's column for each of `TAG_COLUMNS` that it has, else for `ALL_TAGS_COLUMN`."""
    found = {}
    for category in CATEGORIES:
        column, short = tag_column(category), category.value
        if column in schema.names:
            found[column] = column
        elif schema.names.count(short) == 1 and _is_list(schema.field(short).type):
            # A string of this name is separated by commas in some sets and by spaces in others.
            found[column] = short
    return found or {name: name for name in (ALL_TAGS_COLUMN,) if name in schema.names}


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    # Bytes would be read as DuckDB prints them. A column of nulls alone is read, so that its rows become rejects.
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_kind(type_) for is_kind in kinds)


def _is_list(type_: pa.DataType) -> bool:
    return (pa.types.is_list(type_) or pa.types.is_large_list(type_)) and _is_text(type_.value_type)


def _as_field(column: Any) -> Any:
    """Strings of tags; null where the value is null, or a list holds a tag that is empty, null or has a space."""
    if not _is_list(column.type):
        return column.cast(pa.string())
    tags: Any = pc.list_flatten(column).cast(pa.string())
    posts: Any = pc.list_parent_indices(column)
    is_invalid: Any = pc.or_(pc.equal(tags, pa.scalar("")), pc.match_substring(tags, TAG_SEPARATOR))
    is_invalid = is_invalid.fill_null(True)
    field = pc.binary_join(column.cast(pa.list_(pa.string())), TAG_SEPARATOR)
    if not pc.any(is_invalid).as_py():
        return field
    is_whole = np.ones(len(column), dtype=np.bool_)
    is_whole[posts.filter(is_invalid).to_numpy(zero_copy_only=False)] = False
    return pc.if_else(pa.array(is_whole), field, pa.scalar(None, pa.string()))


def _tags_problem(column: str, value: str | list[str | None] | None) -> str | None:
    if value is None:
        return f"{column} is missing"
    for tag in value if isinstance(value, list) else ():
        if not tag:
            return f"{column} holds an empty tag"
        if TAG_SEPARATOR in tag:
            return f"{column} holds a tag with a space: {tag[:40]!r}"
    text = "".join(map(str, value))
    return f"a line break inside {column}" if set("\r\n") & set(text) else None


def _text_of(name: str) -> str:
    return f'cast("{name}" as varchar)'


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)
