"""CSV and TSV exports read chunk by chunk, for a practice run that stops early.

``delimited.py`` scans a file from end to end before its first post. Here each chunk is copied and scanned alone, and
what follows the last one is never read.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.base import ExportPath
from booru_embed_core.posts.readers.delimited import DelimitedReader, parsed
from booru_embed_core.posts.readers.dialect import Dialect
from booru_embed_core.posts.readers.lines import concatenated
from booru_embed_core.posts.readers.records import Records
from booru_embed_core.posts.readers.scan import Scanner, clean, lines_between, select_records
from booru_embed_core.posts.validation import line_problem

_FIRST_CHUNK_BYTES: Final = 1 << 20
_LAST_CHUNK_BYTES: Final = 256 << 20


class ChunkedCsvReader:
    """A CSV or TSV file that is not read to its end; see `Reader`.

    Posts and problems are those of `DelimitedReader`, as far as the file is read.

    Raises:
        ExportError: no header, a wrong one, or a broken compressed stream.
    """

    suffixes: ClassVar[tuple[str, ...]] = DelimitedReader.suffixes

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        self._path = path
        self._conventions = conventions
        self._scanner = Scanner(path, conventions)
        self.num_records = 0
        self.malformed = concatenated([])
        self._long, self._skipped = (np.empty((0, 2), dtype=np.int64) for _ in range(2))

    @property
    def dialect(self) -> Dialect:
        """How the file separates and quotes its fields."""
        return self._scanner.layout.dialect

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`."""
        return candidate.ends_early and DelimitedReader.opens(candidate)

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:
        """See `Reader`."""
        chunk, num_bytes = scratch / "chunk.csv", _FIRST_CHUNK_BYTES
        blocks = self._scanner.blocks()
        try:
            while self._write(chunk, blocks, num_bytes):
                scan = self._scanner.take()
                # Counted before the first batch, since reading may stop within it.
                self.num_records += scan.num_records
                self.malformed = np.concatenate([self.malformed, scan.malformed])
                self._long = np.concatenate([self._long, scan.long])
                self._skipped = np.concatenate([self._skipped, scan.skipped])
                yield from parsed(connection, chunk, scan.of_clean_copy(), self._conventions, self._path)
                num_bytes = min(2 * num_bytes, _LAST_CHUNK_BYTES)
        finally:
            chunk.unlink(missing_ok=True)

    def _write(self, chunk: Path, blocks: Iterator[tuple[bytes, Records]], num_bytes: int) -> bool:
        """Whether there was anything left to write to `chunk` below the header: about `num_bytes`."""
        num_read = 0
        with chunk.open("wb") as out:
            out.write(self._scanner.header.removesuffix(b"\r") + b"\n")
            for block, records in blocks:
                out.writelines(clean(block, records))
                num_read += records.num_bytes
                if num_read >= num_bytes:
                    break
        return num_read > 0

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return lines_between(record, self._skipped)

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`."""
        columns, dialect = self._scanner.columns, self.dialect
        for number, raw in select_records(self._path, lines, self._long):
            yield number, raw, line_problem(raw, columns, dialect, self._conventions)
