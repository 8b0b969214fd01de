"""Parquet: only the columns that mean something are read, and a broken file is named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts.tag_tables.columns import Role
from booru_embed_core.posts.tag_tables.parquet import parquet_rows
from booru_embed_core.posts.validation import ExportError


def test_rows_are_numbered_from_one(tmp_path: Path) -> None:
    table = pa.table(
        {"x": [{"y": 1}] * 40_000, "name": [f"tag_{n}" for n in range(40_000)], "type": ["general"] * 40_000}
    )
    pq.write_table(table, tmp_path / "t", row_group_size=15_000)
    rows = parquet_rows(tmp_path / "t")
    assert (rows.names, rows.unit, rows.roles) == (("x", "name", "type"), "row", {Role.NAME, Role.CATEGORY})
    blocks = list(rows.blocks)
    assert [number for block in blocks for number in block.numbers] == list(range(1, 40_001))
    assert blocks[-1].columns[Role.NAME][-1].as_py() == "tag_39999"
    assert Role.ALIASES not in blocks[0].columns


def test_a_page_that_was_changed_is_named(tmp_path: Path) -> None:
    table = pa.table({"name": [f"tag_{n}" for n in range(1000)], "category": [0] * 1000})
    pq.write_table(table, tmp_path / "t", compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray((tmp_path / "t").read_bytes())
    data[data.index(b"tag_500")] = ord("X")
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(ExportError, match=r"t: a broken Parquet file .*; fetch the file again"):
        list(parquet_rows(tmp_path / "t").blocks)
