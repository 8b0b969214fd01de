"""Reads the export that the settings name, files or a BigQuery table, into the ``posts`` table.

Google's client is imported only for a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from booru_embed_core.disk_space import check_room, posts_bytes
from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.export_files import ExportFiles, find_export
from booru_embed_core.posts.progress import silent
from booru_embed_core.posts.read_posts import count_wanted, read_sources
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.sources import Source
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import RATINGS
from booru_embed_core.settings import DuckdbSettings, PostsSettings, SourceSettings

if TYPE_CHECKING:
    from booru_embed_core.posts.bigquery import TableState


def read_export(
    settings: PostsSettings,
    root: Path,
    out_dir: Path,
    duckdb_settings: DuckdbSettings,
    temp_dir: Path | None = None,
    say: Callable[[str], object] = silent,
) -> PostsReport:
    """The report on the export of `settings`, whose posts are written to `out_dir`; relative paths start from `root`.

    A table is first written to a file below `temp_dir`, by ascending id, and then read like any file. With
    ``limit_posts`` only as many ranges of ids are read as fill the limit. `say` is told what is being read.

    Raises:
        ExportError: see `find_export`, `read_sources` and, for a table, ``bigquery.read_table``.
        DiskError: the disk of `out_dir` has no room for the posts.
    """
    with ExitStack() as stack:
        exports = [
            stack.enter_context(_files(source, settings, root, duckdb_settings, temp_dir))
            for source in settings.sources
        ]
        check_room(out_dir, _least_bytes(exports, settings), "posts")
        sources = [
            Source.load(export.files, source, root, export.searched)
            for source, export in zip(settings.sources, exports, strict=True)
        ]
        left_out = sorted({path for export in exports for path in export.left_out})
        return read_sources(sources, out_dir, settings, duckdb_settings, temp_dir, left_out, say)


def _least_bytes(exports: Sequence[ExportFiles], settings: PostsSettings) -> float:
    """A lower bound of what the posts take. What was found in a folder may hold something else than posts."""
    files = (file for export in exports for file in export.files if file not in export.searched and file.is_file())
    sizes = [(file.name, file.stat().st_size) for file in files]
    is_whole = settings.limit_posts is None and settings.min_score is None and set(settings.ratings) == set(RATINGS)
    return posts_bytes(sizes, is_whole)


def bigquery_state(table: str, project: str | None) -> TableState:
    """The time of the last change of `table`, and its number of rows.

    Raises:
        ExportError: the extra ``bigquery`` is missing, or the table cannot be read.
    """
    with _client_named():
        from booru_embed_core.posts import bigquery, bigquery_access
    with bigquery_access.open_access(project) as access:
        return bigquery.table_state(table, access)


@contextmanager
def _files(
    source: SourceSettings, settings: PostsSettings, root: Path, duckdb_settings: DuckdbSettings, temp_dir: Path | None
) -> Iterator[ExportFiles]:
    table = source.bigquery_table
    if table is None:
        yield find_export(source.export, root)
        return
    with _client_named():
        from booru_embed_core.posts import bigquery, bigquery_access
    with scratch_folder(temp_dir) as scratch:
        file = scratch / f"{table}.parquet"
        with bigquery_access.open_access(source.bigquery_project) as access:
            limit = settings.limit_posts
            if limit is None:
                bigquery.read_table_sorted(table, file, access, duckdb_settings, scratch)
            else:
                count = partial(
                    count_wanted, settings=settings, source=source, duckdb_settings=duckdb_settings, temp_dir=scratch
                )
                bigquery.read_start_sorted(table, file, access, duckdb_settings, scratch, limit, count)
        yield ExportFiles((file,))


@contextmanager
def _client_named() -> Iterator[None]:
    """Turns the ImportError of a missing Google client into an ExportError that names the extra to install."""
    try:
        yield
    except ImportError as error:
        raise ExportError(str(error)) from error
