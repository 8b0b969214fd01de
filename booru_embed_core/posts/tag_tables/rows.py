"""The rows of a table of tags or aliases, in a format that is told by the first bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from booru_embed_core.posts.readers.lines import first_bytes
from booru_embed_core.posts.tag_tables.columns import TagRows
from booru_embed_core.posts.tag_tables.json_text import json_rows
from booru_embed_core.posts.tag_tables.parquet import parquet_rows
from booru_embed_core.posts.tag_tables.text import text_rows
from booru_embed_core.posts.validation import ExportError


def read_rows(file: Path, is_category: Callable[[Any], bool]) -> TagRows:
    """The rows of the table in `file`, plain or packed.

    A text without a header is read as name, category, number of posts and aliases, if the second value of its first
    row `is_category`.

    Raises:
        ExportError: the file is no table. `TagRows.blocks` raises it too.
    """
    start = first_bytes(file)
    if start.startswith(b"PAR1"):
        return parquet_rows(file)
    start = start.lstrip()
    if start.startswith((b"{", b"[")):
        return json_rows(file, is_category)
    if start.startswith(b"<") or b"\0" in start:
        remedy = "XML or HTML; fetch JSON from the site" if start.startswith(b"<") else "none of them; write it as one"
        raise ExportError(f"{file}: a table of tags is CSV, TSV, JSON or Parquet in UTF-8, and this is {remedy}")
    return text_rows(file, is_category)
