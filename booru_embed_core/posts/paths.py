"""The files of posts that have no number, such as captions: ``paths.parquet``."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from booru_embed_core.posts.arrow import schema_of

PATHS_FILE: Final = "paths.parquet"
IMPLICATIONS_FILE: Final = "implications.parquet"
"""Of ``implications``, whose imports lead to those that leave this file out of an export."""
PATHS_SCHEMA: Final = schema_of({"id": pa.int64(), "path": pa.string()})
"""``path`` is relative to the folder or archive that was read."""


class PathsWriter:
    """Writes ``paths.parquet`` beside the posts, once a post has a path; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def add(self, ids: pa.Array[Any], paths: pa.Array[Any]) -> None:
        """Appends the `paths` of the posts with these `ids`."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, PATHS_SCHEMA, compression="zstd")
        self._writer.write_batch(pa.RecordBatch.from_arrays([ids, paths.cast(pa.string())], schema=PATHS_SCHEMA))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
