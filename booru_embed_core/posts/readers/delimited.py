"""CSV and TSV exports, plain or compressed, read once from beginning to end.

``records.py`` finds the records of a block and tells which are well formed, ``fields.py`` cuts out their values.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.base import ExportPath
from booru_embed_core.posts.readers.dialect import Dialect
from booru_embed_core.posts.readers.fields import values_of
from booru_embed_core.posts.readers.records import find_marks
from booru_embed_core.posts.readers.scan import Scanner, select_records, well_formed
from booru_embed_core.posts.readers.values import fit_values
from booru_embed_core.posts.validation import line_problem

_BATCH_BYTES: Final = 3 << 22
"""The bytes of a batch, the first one excepted: they begin with one block and double."""


class DelimitedReader:
    """A CSV or TSV file; see `Reader`.

    Raises:
        ExportError: no header, or a wrong one.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        self._path = path
        self._conventions = conventions
        self._scanner = Scanner(path, conventions)

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`; any file will do, since CSV has no sign of its own."""
        return not candidate.path.is_dir()

    @property
    def dialect(self) -> Dialect:
        """How the file separates and quotes its fields."""
        return self._scanner.layout.dialect

    @property
    def num_records(self) -> int:
        """See `Reader`."""
        return self._scanner.scan().num_records

    @property
    def malformed(self) -> NDArray[np.int64]:
        """See `Reader`."""
        return self._scanner.scan().malformed

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Reader`."""
        for records in self._tables():
            yield fit_values(records, self._conventions)

    def _tables(self) -> Iterator[pa.Table]:
        """The well-formed records in their order, with the columns that are read as text."""
        layout = self._scanner.layout
        pieces: dict[str, list[pa.Array[Any]]] = {name: [] for name in self._scanner.columns_read}
        num_bytes, max_bytes = 0, 0
        for block, records in self._scanner.blocks():
            text = well_formed(block, records, layout.dialect)
            marks = records.marks if text is block else find_marks(np.frombuffer(text, dtype=np.uint8), layout.dialect)
            for of_column, values in zip(pieces.values(), values_of(text, marks, layout), strict=True):
                of_column += values
            num_bytes += len(text)
            if num_bytes > max_bytes:
                yield _table(pieces)
                num_bytes, max_bytes = 0, min(2 * num_bytes, _BATCH_BYTES)
        if num_bytes:
            yield _table(pieces)

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return self._scanner.scan().line_of(record)

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`."""
        scan = self._scanner.scan()
        for number, raw in select_records(self._path, lines, scan.long):
            yield number, raw, line_problem(raw, scan.columns, scan.dialect, self._conventions)


def _table(pieces: Mapping[str, list[pa.Array[Any]]]) -> pa.Table:
    """The table of the `pieces` of each column, which are taken out."""
    table = pa.table({name: pa.concat_arrays(arrays) for name, arrays in pieces.items()})
    for arrays in pieces.values():
        arrays.clear()
    return table
