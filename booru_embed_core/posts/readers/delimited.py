"""CSV and TSV exports, plain, gzip or zstd.

A file is read twice: ``scan.py`` counts its records and finds malformed lines from the bytes alone, then DuckDB parses
it as a stream. A file with malformed lines is parsed from a copy without them.
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
from booru_embed_core.posts.database import quoted, source_literal
from booru_embed_core.posts.readers.base import BATCH_RECORDS, ExportPath, fit_values, parse_error
from booru_embed_core.posts.readers.lines import Compression, select_lines
from booru_embed_core.posts.readers.scan import scan_file, write_clean_copy
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

    @property
    def skipped(self) -> NDArray[np.int64]:
        """Lines (int64, ascending) that are in no batch: malformed and blank ones."""
        return np.sort(np.concatenate([self._scan.malformed, self._scan.blank]))

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:
        """See `Reader`."""
        scan = self._scan
        file, newline, compression = self._path, scan.newline, scan.compression
        is_copy = bool(len(scan.malformed)) or newline is None
        if newline is None or is_copy:
            file, newline, compression = scratch / "clean.csv", "\n", Compression.NONE
            write_clean_copy(self._path, scan, file)
        query = _query(file, scan.columns, self._conventions, scan.delimiter, newline, compression)
        try:
            yield from connection.sql(query).to_arrow_reader(BATCH_RECORDS)
        except (duckdb.Error, pa.ArrowInvalid) as error:
            raise parse_error(self._label, error) from error
        finally:
            if is_copy:
                file.unlink()

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return self._scan.line_of(record)

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`."""
        for number, raw in select_lines(self._path, lines):
            yield number, raw, line_problem(raw, self._scan.columns, self._scan.delimiter, self._conventions)


def _query(
    file: Path, columns: Sequence[str], conventions: Conventions, delimiter: str, newline: str, compression: Compression
) -> str:
    """The query of the batches. It names every option of the format, so that DuckDB guesses none.

    Without force_not_null a quoted ``""`` would be NULL. Columns go by index, since their names may be anything.
    """
    types = ", ".join(f"'{index}': 'VARCHAR'" for index in range(len(columns)))
    indices = ", ".join(f"'{index}'" for index in range(len(columns)))
    options = {
        "columns": f"{{{types}}}",
        "auto_detect": "false",
        "header": "true",
        "delim": quoted(delimiter),
        "quote": "'\"'",
        "escape": "'\"'",
        "comment": "''",
        "new_line": "'\\r\\n'" if newline == "\r\n" else "'\\n'",
        "compression": quoted(compression.value),
        "encoding": "'utf-8'",
        "force_not_null": f"[{indices}]",
        "hive_partitioning": "false",
        "max_line_size": str(2 * MAX_LINE_BYTES),
    }
    arguments = ", ".join([source_literal(file), *(f"{name} = {value}" for name, value in options.items())])
    values = fit_values(lambda name: f'"{columns.index(name)}"', columns, conventions)
    return f"select {values} from read_csv({arguments})"  # noqa: S608
