"""CSV and TSV exports, plain or compressed.

A file is read twice: ``scan.py`` counts its records and finds malformed ones from the bytes alone, then DuckDB parses
it as a stream. A file with malformed records, mixed line ends or backslash escapes is parsed from a clean copy.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.database import is_out_of_resources, quoted, source_literal
from booru_embed_core.posts.readers.base import BATCH_RECORDS, ExportPath, fit_values, parse_error
from booru_embed_core.posts.readers.dialect import Dialect
from booru_embed_core.posts.readers.scan import Scan, scan_file, select_records, write_clean_copy
from booru_embed_core.posts.validation import MAX_LINE_BYTES, line_problem


class DelimitedReader:
    """A CSV or TSV file; see `Reader`.

    `label` is the path that errors of the parser name, by default `path` itself.

    Raises:
        ExportError: no header, a wrong one, or a broken gzip or zstd stream.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    def __init__(self, path: Path, conventions: Conventions = DANBOORU, *, label: Path | None = None) -> None:
        self._path = path
        self._conventions = conventions
        self._label = label or path
        self._scan = scan_file(path, conventions)

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`; any file will do, since CSV has no sign of its own."""
        return not candidate.path.is_dir()

    @property
    def num_records(self) -> int:
        """See `Reader`."""
        return self._scan.num_records

    @property
    def malformed(self) -> NDArray[np.int64]:
        """See `Reader`."""
        return self._scan.malformed

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:
        """See `Reader`."""
        if self._scan.is_clean:
            yield from parsed(connection, self._path, self._scan, self._conventions, self._label)
            return
        copy = scratch / "clean.csv"
        write_clean_copy(self._path, copy, self._conventions)
        try:
            yield from parsed(connection, copy, self._scan.of_clean_copy(), self._conventions, self._label)
        finally:
            copy.unlink()

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return self._scan.line_of(record)

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`."""
        scan = self._scan
        for number, raw in select_records(self._path, lines, scan.long):
            yield number, raw, line_problem(raw, scan.columns, scan.dialect, self._conventions)


def parsed(
    connection: duckdb.DuckDBPyConnection, file: Path, scan: Scan, conventions: Conventions, label: Path
) -> Generator[pa.RecordBatch]:
    """The batches of a `file` without malformed records, whose `scan` is clean.

    Raises:
        ExportError: it cannot be parsed; names `label`.
    """
    try:
        yield from connection.sql(_query(file, scan, conventions)).to_arrow_reader(BATCH_RECORDS)
    except (duckdb.Error, pa.ArrowInvalid) as error:
        if is_out_of_resources(error):  # told by `connect`, which knows the settings
            raise
        raise parse_error(label, error) from error


def _query(file: Path, scan: Scan, conventions: Conventions) -> str:
    """The query of the batches. It names every option of the format, so that DuckDB guesses none.

    Without force_not_null a quoted ``""`` would be NULL. Columns go by index, since their names may be anything.
    """
    columns = scan.columns
    types = ", ".join(f"'{index}': 'VARCHAR'" for index in range(len(columns)))
    indices = ", ".join(f"'{index}'" for index in range(len(columns)))
    quote = quoted(scan.dialect.quote)
    options = {
        "columns": f"{{{types}}}",
        "auto_detect": "false",
        "header": "true",
        "delim": quoted(scan.dialect.delimiter),
        "quote": quote,
        "escape": quote,
        "comment": "''",
        "new_line": "'\\r\\n'" if scan.newline == "\r\n" else "'\\n'",
        "compression": quoted(scan.compression.value),
        "encoding": "'utf-8'",
        "force_not_null": f"[{indices}]",
        "hive_partitioning": "false",
        "max_line_size": str(2 * MAX_LINE_BYTES),
        # Threads that begin in the middle of a file would have to guess whether it is within quotes.
        "parallel": "false" if len(scan.long) else "true",
    }
    arguments = ", ".join([source_literal(file), *(f"{name} = {value}" for name, value in options.items())])
    values = fit_values(lambda name: _text(columns.index(name), scan.dialect), columns, conventions)
    return f"select {values} from read_csv({arguments})"  # noqa: S608


def _text(index: int, dialect: Dialect) -> str:
    text = f'"{index}"'
    for mark, character in dialect.marks.items():
        text = f"replace({text}, {quoted(mark)}, chr({ord(character)}))"
    return text
