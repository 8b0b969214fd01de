"""Arrow helpers: schemas, columns and our own Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq


def schema_of(types: Mapping[str, Any]) -> pa.Schema:
    """The schema with columns of these names and Arrow types, none of them nullable."""
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in types.items()])


def strings(column: pa.ChunkedArray[Any]) -> list[str]:
    """The values of a string column without nulls."""
    return cast("list[str]", column.to_pylist())


def joined(column: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    """The chunks of `column` as one array."""
    array: Any = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return cast("pa.Array[Any]", array)


def read_parquet(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in `file`, or these `columns` of it, wherever the file lies.

    By default pyarrow 20 makes a column of a folder called ``count=7`` on the way.
    """
    return pq.read_table(file, columns=None if columns is None else list(columns), partitioning=None)
