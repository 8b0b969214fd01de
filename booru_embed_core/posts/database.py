"""DuckDB connections of the data stages: bounded memory, a known folder to spill to, row order kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.settings import DuckdbSettings

_PATTERN_CHARACTERS: Final = re.compile(r"[*?\[]")


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


def source_literal(file: Path) -> str:
    """The SQL string literal by which DuckDB reads exactly `file`, although its path may look like a pattern.

    Raises:
        ExportError: the path holds both a backslash and a character of a pattern, which DuckDB cannot open.
    """
    path = str(file.absolute())
    if not _PATTERN_CHARACTERS.search(path):
        return quoted(path)
    if "\\" in path:
        # DuckDB takes the backslash of a pattern for a separator of folders and might read another file.
        raise ExportError(f"{file}: the path holds a backslash beside one of * ? [; rename the file or its folder")
    return quoted(_PATTERN_CHARACTERS.sub(r"[\g<0>]", path))


def target_literal(file: Path) -> str:
    """The SQL string literal by which ``copy`` writes `file`; DuckDB expands a leading ``~`` of a relative path."""
    return quoted(str(file.absolute()))
