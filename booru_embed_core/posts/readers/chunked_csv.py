"""CSV and TSV exports read chunk by chunk, for a practice run that stops early.

``delimited.py`` scans a file from end to end before its first post. Here each chunk is copied and scanned alone, and
what follows the last one is never read.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.base import ExportPath
from booru_embed_core.posts.readers.delimited import DelimitedReader
from booru_embed_core.posts.readers.lines import concatenated, line_numbers, select_lines, whole_lines
from booru_embed_core.posts.validation import ExportError, columns_of, delimiter_of, line_problem

_FIRST_CHUNK_BYTES: Final = 8 << 20
_LAST_CHUNK_BYTES: Final = 256 << 20


class ChunkedCsvReader:
    """A CSV or TSV file that is not read to its end; see `Reader`.

    Posts and problems are those of `DelimitedReader`, as far as the file is read.

    Raises:
        ExportError: no header, a wrong one, or a broken gzip or zstd stream.
    """

    suffixes: ClassVar[tuple[str, ...]] = DelimitedReader.suffixes

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        self._path = path
        self._conventions = conventions
        self._header, _, _ = next(whole_lines(path), b"").partition(b"\n")
        if not self._header.strip():
            raise ExportError(f"{path}: is empty; export the posts again or remove the file")
        self._columns = columns_of(self._header, path, conventions)
        self.num_records = 0
        self.malformed = concatenated([])
        self._skipped = concatenated([])

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`."""
        return candidate.ends_early and DelimitedReader.opens(candidate)

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:
        """See `Reader`."""
        blocks = whole_lines(self._path)
        rest = next(blocks)[len(self._header) + 1 :]
        blocks = itertools.chain([rest] if rest else [], blocks)
        chunk, num_lines, num_bytes = scratch / "chunk.csv", 1, _FIRST_CHUNK_BYTES
        while num_added := self._write(chunk, blocks, num_bytes):
            reader = DelimitedReader(chunk, self._conventions, label=self._path)
            # Line 1 of a chunk is the header again. Counted before the first batch, since reading may stop within it.
            self.num_records += reader.num_records
            self.malformed = np.concatenate([self.malformed, reader.malformed + num_lines - 1])
            self._skipped = np.concatenate([self._skipped, reader.skipped + num_lines - 1])
            yield from reader.batches(connection, scratch)
            num_lines += num_added
            num_bytes = min(2 * num_bytes, _LAST_CHUNK_BYTES)
        chunk.unlink()

    def _write(self, chunk: Path, blocks: Iterator[bytes], num_bytes: int) -> int:
        """The number of lines written to `chunk` below the header: about `num_bytes`, or all that is left."""
        num_lines = num_written = 0
        with chunk.open("wb") as out:
            out.write(self._header + b"\n")
            for block in blocks:
                out.write(block)
                num_lines += block.count(b"\n")
                num_written += len(block)
                if num_written >= num_bytes:
                    break
        return num_lines

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return line_numbers(record, self._skipped, first_line=2)

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`."""
        for number, raw in select_lines(self._path, lines):
            yield number, raw, line_problem(raw, self._columns, delimiter_of(self._header), self._conventions)
