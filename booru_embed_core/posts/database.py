"""DuckDB connections of the data stages: bounded memory, a known folder to spill to, row order kept."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from booru_embed_core.errors import DiskError, disk_error, first_line, is_disk_full, space_left
from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.settings import DuckdbSettings

_PATTERN_CHARACTERS: Final = re.compile(r"[*?\[]")
_NO_MEMORY: Final = "Out of Memory Error"
"""How DuckDB's message begins; Arrow passes on the message alone."""
_NO_SPILL: Final = "max_temp_directory_size"
ELSEWHERE: Final = "set [warehouse] path to a folder on another disk"
"""How to choose another folder for what the data stages write."""


class DatabaseMemoryError(ValueError):
    """DuckDB needs more memory than it may use."""


@contextmanager
def connect(settings: DuckdbSettings, temp_dir: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database with the threads and memory of `settings`; closed on leaving, its spilled files removed.

    DuckDB's defaults would take most of the memory and 90% of the disk below the working directory. The order of rows
    is kept, so that results do not depend on the number of threads.

    Raises:
        DatabaseMemoryError: a query in the block needs more than the memory of `settings`.
        DiskError: the disk of the temporary files, or of a file that a query writes, is full.
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
        except (duckdb.Error, pa.ArrowException) as error:
            found = _resource_error(error, settings, folder)
            if found is None:
                raise
            raise found from None
        finally:
            connection.close()


def is_out_of_resources(error: BaseException) -> bool:
    """Whether a query failed for lack of memory or disk space, and not because of the file that it reads.

    `connect` replaces such an error at the end of its block, where the settings are known.
    """
    return _lacks_memory(error) or _lacks_disk(error)


def _lacks_memory(error: BaseException) -> bool:
    # A message of another kind may quote a record, which may hold any words.
    return isinstance(error, duckdb.OutOfMemoryException) or (
        isinstance(error, pa.ArrowException) and str(error).startswith(_NO_MEMORY)
    )


def _lacks_disk(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and is_disk_full(error)


def _resource_error(error: BaseException, settings: DuckdbSettings, folder: Path) -> Exception | None:
    """The error of one line for a query that failed for lack of memory or disk space, else None."""
    if _lacks_memory(error) and _NO_SPILL in str(error):
        detail = f" for DuckDB's temporary files{space_left(folder)}"
        remedy = f"free some space, raise [duckdb] memory_limit (now {settings.memory_limit!r})"
        return DiskError(errno.ENOSPC, folder.parent, ELSEWHERE, detail, remedy)
    if _lacks_memory(error):
        return DatabaseMemoryError(
            f"DuckDB ran out of memory ({first_line(error, 160)}); raise [duckdb] memory_limit, which is "
            f"{settings.memory_limit!r}, or lower [duckdb] threads, which is {settings.threads}"
        )
    return disk_error(error, folder.parent, ELSEWHERE) if _lacks_disk(error) else None


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
