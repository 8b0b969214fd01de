"""Schemas without nulls, and files that are read alike in any folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts.arrow import joined, read_parquet, schema_of, strings


def test_a_schema_has_the_columns_in_order_without_nulls() -> None:
    schema = schema_of({"b": pa.int64(), "a": pa.string()})
    assert [(field.name, field.type, field.nullable) for field in schema] == [
        ("b", pa.int64(), False),
        ("a", pa.string(), False),
    ]


def test_strings_of_a_chunked_column() -> None:
    assert strings(pa.chunked_array([["a"], ["", "b"]])) == ["a", "", "b"]


@pytest.mark.parametrize("chunks", [[], [["a"]], [["a"], [], ["", "b"]]])
def test_chunks_are_joined_in_order(chunks: list[list[str]]) -> None:
    column = pa.chunked_array(chunks, pa.string())
    assert joined(column).equals(pa.array([text for chunk in chunks for text in chunk], pa.string()))


def test_a_folders_name_adds_no_column(tmp_path: Path) -> None:
    table = pa.table({"count": [3, 4], "tag": ["a", "b"]})
    file = tmp_path / "count=7" / "site=x" / "tags.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(table, file)
    assert read_parquet(file).equals(table)
    assert read_parquet(file, ["tag"]).column_names == ["tag"]
