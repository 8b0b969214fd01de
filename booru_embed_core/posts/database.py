"""DuckDB connections of the data stages: bounded memory, a known folder to spill to, row order kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.settings import DuckdbSettings


@contextmanager
def connect(settings: DuckdbSettings, temp_dir: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database with the threads and memory of `settings`; closed on leaving, its spilled files removed.

    DuckDB's defaults would take most of the memory and 90% of the disk below the working directory. The order of rows
    is kept, so that results do not depend on the number of threads.
    """
    with scratch_folder(temp_dir) as folder:
        connection = duckdb.connect(
            config={
                "threads": settings.threads,
                "memory_limit": settings.memory_limit,
                "temp_directory": str(folder),
                "preserve_insertion_order": True,
                "autoinstall_known_extensions": False,
            }
        )
        try:
            yield connection
        finally:
            connection.close()


def quoted(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
