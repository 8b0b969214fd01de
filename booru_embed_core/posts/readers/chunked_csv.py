"""CSV and TSV exports read piece by piece, for a practice run: what stands behind the last piece is not looked at.

The whole file is read otherwise: ``delimited.py`` scans it from end to end before the first post comes, and a piece is
a copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.lines import joined, line_numbers, select_lines, whole_lines
from booru_embed_core.posts.names import DANBOORU, Names
from booru_embed_core.posts.readers.delimited import DelimitedSource
from booru_embed_core.posts.validation import ExportError, columns_of, delimiter_of, line_problem

_FIRST_PIECE_BYTES: Final = 8 << 20
_LAST_PIECE_BYTES: Final = 256 << 20


class PiecewiseSource:
    """A CSV or TSV file; see `Source`. The same posts and problems as of `DelimitedSource`, as far as it is read.

    Raises:
        ExportError: no header, a wrong one, or a broken gzip or zstd stream.
    """

    def __init__(self, file: Path, names: Names = DANBOORU) -> None:
        self._file = file
        self._names = names
        self._header, _, _ = next(whole_lines(file), b"").partition(b"\n")
        if not self._header.strip():
            raise ExportError(f"{file}: is empty; export the posts again or remove the file")
        self._columns = columns_of(self._header, file, names)
        self.num_records = 0
        self.malformed = joined([])
        self._skipped = joined([])

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:
        """See `Source`."""
        blocks = whole_lines(self._file)
        rest = next(blocks)[len(self._header) + 1 :]
        blocks = itertools.chain([rest] if rest else [], blocks)
        piece, num_lines, num_bytes = scratch / "piece.csv", 1, _FIRST_PIECE_BYTES
        while num_added := self._write(piece, blocks, num_bytes):
            source = DelimitedSource(piece, self._names, self._file)
            # Line 1 of a piece is the header again. Before the first batch, since the reading may end in this piece.
            self.num_records += source.num_records
            self.malformed = np.concatenate([self.malformed, source.malformed + num_lines - 1])
            self._skipped = np.concatenate([self._skipped, source.skipped + num_lines - 1])
            yield from source.batches(connection, scratch)
            num_lines += num_added
            num_bytes = min(2 * num_bytes, _LAST_PIECE_BYTES)
        piece.unlink()

    def _write(self, piece: Path, blocks: Iterator[bytes], num_bytes: int) -> int:
        """The number of lines that are in `piece` from now on, the header aside: about `num_bytes`, or what is left."""
        num_lines = num_written = 0
        with piece.open("wb") as out:
            out.write(self._header + b"\n")
            for block in blocks:
                out.write(block)
                num_lines += block.count(b"\n")
                num_written += len(block)
                if num_written >= num_bytes:
                    break
        return num_lines

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Source`."""
        return line_numbers(record, self._skipped, first_line=2)

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Source`."""
        for number, raw in select_lines(self._file, lines):
            yield number, raw, line_problem(raw, self._columns, delimiter_of(self._header), self._names.ratings)
