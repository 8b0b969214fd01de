"""DuckDB connections of the data stages: bounded memory, spill in a known folder, order of rows kept; and folders."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from booru_embed_core.settings import DuckdbSettings


@contextmanager
def connect(settings: DuckdbSettings, temp_dir: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database with the threads and memory of `settings`; closed, and its spill removed, on leaving.

    DuckDB's own defaults take most of the memory and 90% of the disk below the working directory. The order of rows
    is kept, since results must not depend on the number of threads.
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


@contextmanager
def scratch_folder(temp_dir: Path | None = None) -> Iterator[Path]:
    """A new folder below `temp_dir` (the system's place when None); removed on leaving."""
    with tempfile.TemporaryDirectory(prefix="booru-embed-", dir=temp_dir) as folder:
        yield Path(folder)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keeps `folder` for this process until the block ends.

    Raises:
        BlockingIOError: another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def quoted(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
