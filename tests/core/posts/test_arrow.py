"""Schemas without nulls."""

from __future__ import annotations

import pyarrow as pa

from booru_embed_core.posts.arrow import schema_of, strings


def test_a_schema_has_the_columns_in_order_without_nulls() -> None:
    schema = schema_of({"b": pa.int64(), "a": pa.string()})
    assert [(field.name, field.type, field.nullable) for field in schema] == [
        ("b", pa.int64(), False),
        ("a", pa.string(), False),
    ]


def test_strings_of_a_chunked_column() -> None:
    assert strings(pa.chunked_array([["a"], ["", "b"]])) == ["a", "", "b"]
