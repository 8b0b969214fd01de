"""The columns of a table of tags or aliases, whatever the format calls them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import pyarrow as pa

BLOCK_ROWS: Final = 16_384


class Role(StrEnum):
    """What a column of a table holds."""

    NAME = "tag"
    CATEGORY = "category"
    ALIASES = "aliases"
    OLD = "antecedent_name"
    NEW = "consequent_name"
    STATUS = "status"
    AMBIGUOUS = "ambiguous"


_NAMES: Final[Mapping[Role, tuple[str, ...]]] = {
    Role.NAME: ("tag", "name", "tag_name", "tagname", "value", "title"),
    Role.CATEGORY: ("category", "category_id", "tag_category", "category_name", "type", "tag_type"),
    Role.ALIASES: ("aliases", "alias"),
    Role.OLD: ("antecedent_name", "antecedent", "old_name", "old"),
    Role.NEW: ("consequent_name", "consequent", "new_name", "new"),
    Role.STATUS: ("status",),
    Role.AMBIGUOUS: ("ambiguous",),
}
"""The names of each role's column, in any case; the first that a table has counts."""


@dataclass(frozen=True)
class Block:
    """Some rows: their numbers from 1, and the values of the columns that have a role, None where there is none."""

    numbers: Sequence[int]
    columns: Mapping[Role, Sequence[Any] | pa.Array[Any]]


@dataclass(frozen=True)
class TagRows:
    """A table's columns and rows.

    Attributes:
        names: all columns as the file calls them; the first row of a text whose columns are unknown.
        roles: the roles that the columns have.
        unit: what a row's number counts: ``line``, ``row`` or ``entry``.
        blocks: the rows, in the file's order.
    """

    names: tuple[str, ...]
    roles: frozenset[Role]
    unit: str
    blocks: Iterator[Block]


def describes_posts(columns: Collection[str]) -> bool:
    """Whether a file with these `columns` holds posts, and not tags."""
    return "rating" in columns or any(name.startswith("tag_string") for name in columns)


def describes_tags(columns: Sequence[str]) -> bool:
    """Whether a file with these `columns` holds tags or aliases, and not posts."""
    return is_header(columns) and not describes_posts(columns)


def columns_by_role(names: Sequence[str]) -> dict[Role, str]:
    """The column of each role that one of `names` has."""
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    found = {
        role: next((by_lower[one] for one in spellings if one in by_lower), None) for role, spellings in _NAMES.items()
    }
    return {role: name for role, name in found.items() if name is not None}


def is_header(names: Sequence[str]) -> bool:
    found = columns_by_role(names).keys()
    return {Role.OLD, Role.NEW} <= found or (Role.NAME in found and bool({Role.CATEGORY, Role.ALIASES} & found))
