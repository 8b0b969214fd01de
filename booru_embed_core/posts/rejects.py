"""Records that do not become posts, with their reasons: ``rejects.parquet``."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from booru_embed_core.posts.arrow import schema_of

REJECTS_FILE: Final = "rejects.parquet"
REJECTS_SCHEMA: Final = schema_of({"file": pa.string(), "line": pa.int64(), "reason": pa.string(), "raw": pa.string()})
"""``line`` counts from 1: a text's physical lines, the header included, or a table's rows. ``raw`` has no line end."""
_BATCH_REJECTS: Final = 10_000
_BATCH_BYTES: Final = 16 << 20


class RejectsWriter:
    """Writes ``rejects.parquet`` in batches of bounded size; a context manager."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, REJECTS_SCHEMA, compression="zstd")
        self._rows: list[tuple[str, int, str, str]] = []
        self._num_bytes = 0

    def add(self, file: str, line: int, reason: str, raw: bytes) -> None:
        """Sets one line aside; bytes that are not UTF-8 are kept as ``\\xNN``."""
        self._rows.append((file, line, reason, raw.decode("utf-8", errors="backslashreplace")))
        self._num_bytes += len(raw)
        if len(self._rows) >= _BATCH_REJECTS or self._num_bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [()] * len(REJECTS_SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, REJECTS_SCHEMA, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=REJECTS_SCHEMA))
        self._rows.clear()
        self._num_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
