"""Parquet exports, such as public metadata sets: columns by name, further ones ignored.

A "line" is the row's number from 1. A row's raw text is a JSON object of its columns that are read. Types and nested
columns are up to ``arrow_columns.py``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import ClassVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.arrow_columns import ArrowColumns, ArrowRows
from booru_embed_core.posts.readers.base import BATCH_RECORDS, ExportPath, parse_error, run_on
from booru_embed_core.posts.readers.lines import concatenated


class ParquetReader(ArrowRows):
    """A Parquet file; see `Reader`.

    Raises:
        ExportError: it is broken, or lacks a column.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        self._path = path
        try:
            with pq.ParquetFile(path) as parquet:
                self.columns = ArrowColumns(parquet.schema_arrow, path, conventions)
                self.num_records = int(parquet.metadata.num_rows)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a column's name may be no text
            raise parse_error(path, error) from error
        self.malformed = concatenated([])

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`."""
        return candidate.start.startswith(b"PAR1")

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Reader`."""
        query = self.columns.query
        for batch in self._raw_batches():
            yield from run_on(connection, query, self.columns.records(batch), self._path)

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        try:
            # pre_buffer would hold a whole row group in memory, and some sets are a single one.
            with pq.ParquetFile(self._path, pre_buffer=False, page_checksum_verification=True) as parquet:
                for batch in parquet.iter_batches(BATCH_RECORDS, columns=self.columns.sources):
                    # Arrow does not check strings as it reads: bytes that are no UTF-8 would end up in the posts.
                    batch.validate(full=True)
                    yield batch
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise parse_error(self._path, error) from error
