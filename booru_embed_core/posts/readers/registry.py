"""Which reader opens which path of an export. A new format is one file beside this one and one line in `READERS`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.arrow_ipc import ArrowIpcReader
from booru_embed_core.posts.readers.base import ExportPath, Reader
from booru_embed_core.posts.readers.caption_files import is_named_caption
from booru_embed_core.posts.readers.captions import CaptionReader
from booru_embed_core.posts.readers.chunked_csv import ChunkedCsvReader
from booru_embed_core.posts.readers.compression import PACKED_SUFFIXES
from booru_embed_core.posts.readers.delimited import DelimitedReader
from booru_embed_core.posts.readers.json_documents import JsonDocumentsReader
from booru_embed_core.posts.readers.json_lines import JsonLinesReader
from booru_embed_core.posts.readers.kohya import KohyaReader
from booru_embed_core.posts.readers.parquet import ParquetReader
from booru_embed_core.posts.readers.sidecars import SidecarReader, TagSidecarReader
from booru_embed_core.posts.readers.sqlite import SqliteReader
from booru_embed_core.posts.validation import ColumnsError, ExportError

READERS: Final[tuple[type[Reader], ...]] = (
    ParquetReader,
    ArrowIpcReader,
    SqliteReader,
    SidecarReader,
    TagSidecarReader,
    CaptionReader,
    KohyaReader,
    JsonLinesReader,
    JsonDocumentsReader,
    ChunkedCsvReader,
    DelimitedReader,  # opens any other file: its error names the columns that are missing
)
"""The first reader that opens a path reads it."""


def open_reader(path: Path, conventions: Conventions = DANBOORU, *, ends_early: bool = False) -> Reader:
    """The reader of `path`, chosen by its first bytes; its columns are called by `conventions`.

    `ends_early` says that the file will hardly be read to its end.

    Raises:
        ExportError: no reader opens it, it is empty or broken, or a column is missing.
    """
    candidate = ExportPath(path, ends_early)
    for reader in READERS:
        if reader.opens(candidate):
            try:
                return reader(path, conventions)
            except ColumnsError as error:
                if error.holds_posts or not is_named_caption(path.name):
                    raise
                message = f"{path}: is no table of posts; if it is a caption, set [posts] export to its folder"
                raise ColumnsError(message, error.found, error.missing) from None
    raise ExportError(f"{path}: no reader opens it; name files of one of {', '.join(export_suffixes())}")


def export_suffixes() -> tuple[str, ...]:
    """The ends of the file names that a folder of an export is searched for, such as ``.csv.gz``."""
    suffixes = dict.fromkeys(suffix for reader in READERS for suffix in reader.suffixes)
    return tuple(suffix + packed for suffix in suffixes for packed in PACKED_SUFFIXES)
