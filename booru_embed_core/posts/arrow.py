"""Arrow helpers of the data stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pyarrow as pa


def schema_of(types: Mapping[str, Any]) -> pa.Schema:
    """The schema with columns of these names and Arrow types, none of them nullable."""
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in types.items()])


def strings(column: pa.ChunkedArray[Any]) -> list[str]:
    """The values of a string column without nulls."""
    return cast("list[str]", column.to_pylist())
