"""The format of a table is told by its first bytes, whatever the file's name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts.tag_tables.columns import Role
from booru_embed_core.posts.tag_tables.rows import read_rows
from booru_embed_core.posts.validation import ExportError


def test_the_format_is_told_by_the_content(tmp_path: Path) -> None:
    (tmp_path / "tags.parquet").write_text("name,category\na,0\n", encoding="utf-8")
    (tmp_path / "tags.txt").write_text(' \n [{"name": "a", "category": 0}]', encoding="utf-8")
    pq.write_table(pa.table({"name": ["a"], "category": [0]}), tmp_path / "tags.csv")
    for name, unit in [("tags.parquet", "line"), ("tags.txt", "entry"), ("tags.csv", "row")]:
        rows = read_rows(tmp_path / name, lambda _: False)
        assert (rows.unit, rows.roles) == (unit, {Role.NAME, Role.CATEGORY})


@pytest.mark.parametrize("content", [b"<?xml version='1.0'?><tags/>", b"SQLite format 3\x00"])
def test_another_format_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(ExportError, match="t: a table of tags is CSV, TSV, JSON or Parquet in UTF-8, and this is"):
        read_rows(tmp_path / "t", lambda _: False)
