"""Parquet exports, such as public metadata sets: columns by name, further ones ignored.

A "line" is the row's number from 1; the raw text of a row is a JSON object of the values that are read.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.posts.lines import joined
from booru_embed_core.posts.sources import BATCH_RECORDS, fit_values, parse_error, run_on
from booru_embed_core.posts.validation import ExportError, check_columns, values_problem
from booru_embed_core.schema import FLAG_COLUMNS, POST_COLUMNS, TAG_COLUMNS


class ParquetSource:
    """A Parquet file; see `Source`.

    Raises:
        ExportError: it is broken, or lacks a column.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            with pq.ParquetFile(file) as parquet:
                schema = parquet.schema_arrow
                self.num_records = int(parquet.metadata.num_rows)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a column's name may be no text
            raise parse_error(file, error) from error
        check_columns(schema.names, file)
        for name in ("rating", *TAG_COLUMNS):
            if not _is_text(schema.field(name).type):
                raise ExportError(
                    f"{file}: column {name} has the type {schema.field(name).type}, wanted string (tags separated by "
                    "one space); write it so"
                )
        self._columns = [name for name in (*POST_COLUMNS, *FLAG_COLUMNS) if name in schema.names]
        self.malformed = joined([])

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Source`."""
        query = f"select {fit_values(_text_of, self._columns, check_breaks=True)} from records"  # noqa: S608
        for batch in self._raw_batches():
            yield from run_on(connection, query, pa.Table.from_batches([batch]), self._file)

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Source`."""
        return record + 1

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Source`."""
        wanted = np.asarray(lines, dtype=np.int64) - 1
        start = 0
        for batch in self._raw_batches():
            first, last = np.searchsorted(wanted, [start, start + len(batch)])
            places = wanted[first:last] - start
            for place, row in zip(places.tolist(), batch.take(places).to_pylist(), strict=True):
                values = {name: _text(value) for name, value in row.items()}
                raw = json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")
                yield start + place + 1, raw, values_problem(values)
            start += len(batch)

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        try:
            # pre_buffer would hold a whole row group, and some sets are one row group.
            with pq.ParquetFile(self._file, pre_buffer=False, page_checksum_verification=True) as parquet:
                for batch in parquet.iter_batches(BATCH_RECORDS, columns=self._columns):
                    # Arrow takes over strings unseen; bytes that are no UTF-8 would end in the posts.
                    batch.validate(full=True)
                    yield batch
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise parse_error(self._file, error) from error


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    # Bytes and lists would be read as DuckDB writes them. A column of nulls alone has rejects to tell of.
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_kind(type_) for is_kind in kinds)


def _text_of(name: str) -> str:
    return f'cast("{name}" as varchar)'


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)
