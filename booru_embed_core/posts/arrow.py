"""Arrow schemas as the data stages declare them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pyarrow as pa


def schema_of(types: Mapping[str, Any]) -> pa.Schema:
    """A schema of these columns and Arrow types, none of which may hold nulls."""
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in types.items()])


def strings(column: pa.ChunkedArray[Any]) -> list[str]:
    """The values of a string column without nulls."""
    return cast("list[str]", column.to_pylist())
