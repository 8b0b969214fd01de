"""An export as a folder of posts, for people who want the posts and not the pipeline.

Reading is in ``read_export.py``. Here are the kinds of output, and the folder that appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from booru_embed_core.outputs import new_folder
from booru_embed_core.posts.checksums import CHECKSUMS_FILE
from booru_embed_core.posts.database import connect, quoted, target_literal
from booru_embed_core.posts.parquet_parts import part_files, posts_relation
from booru_embed_core.posts.progress import silent
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.schema import CATEGORIES, TAG_SEPARATOR, Category, Output, tag_column
from booru_embed_core.settings import DuckdbSettings, PostsSettings

CAPTIONS_FILE: Final = "danbooru-captions"
_TEXT_FIELDS: Final = (Category.META, *(category for category in CATEGORIES if category is not Category.META))
"""In the order of the BigQuery export."""


def ingest(
    settings: PostsSettings,
    out_dir: Path,
    output: Output,
    duckdb_settings: DuckdbSettings,
    root: Path = Path(),
    say: Callable[[str], object] = silent,
) -> PostsReport:
    """The report on the export of `settings`, whose posts are written to `out_dir`; its paths start from `root`.

    ``rejects.parquet`` and ``report.json`` are written beside them. Parquet is the ``posts`` table in parts; text is
    one file, ``danbooru-captions.csv`` or ``.tsv``, with a header and with quotes only where a value needs them. The
    folder appears when it is complete. `say` is told what is being read.

    Raises:
        ForeignPathError, FileExistsError: see `new_folder`.
        ExportError: see `read_export`.
    """
    with new_folder(out_dir, "--out") as draft:
        report = read_export(settings, root, draft, duckdb_settings, draft.parent, say)
        if output is not Output.PARQUET:
            delimiter = "," if output is Output.CSV else "\t"
            write_text(draft, draft / f"{CAPTIONS_FILE}.{output}", delimiter, duckdb_settings, draft.parent)
            for file in (*part_files(draft), draft / CHECKSUMS_FILE):
                file.unlink()
    return report


def write_text(posts_dir: Path, file: Path, delimiter: str, duckdb_settings: DuckdbSettings, temp_dir: Path) -> None:
    """Writes the posts of `posts_dir` to `file` as text with a header, in their order; spills below `temp_dir`."""
    # DuckDB quotes an empty string to tell it from NULL, and awk would see the two quotes.
    fields = [
        f"nullif(array_to_string({field}, {quoted(TAG_SEPARATOR)}), '') as {tag_column(field)}"
        for field in _TEXT_FIELDS
    ]
    query = f"select id, rating, score, {', '.join(fields)} from {posts_relation(posts_dir)}"  # noqa: S608
    options = f"format csv, header, delimiter {quoted(delimiter)}, quote '\"', escape '\"', nullstr ''"
    with connect(duckdb_settings, temp_dir) as connection:
        connection.execute(f"copy ({query}) to {target_literal(file)} ({options})")
