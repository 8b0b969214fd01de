"""Old names of tags, replaced while posts are read.

In a table of tags, an alias counts only in the field of its tag's category, and a name that is itself a tag of that
category is never replaced. In a field of all categories an alias of any category counts, and no name that is a tag of
any category is replaced.

A table of aliases has no categories. An alias of it counts in every field, except where its tag is known to be of
another category.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from booru_embed_core.posts.tag_categories import TagCategories
from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.posts.tag_table import TagTable, read_tag_table
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import CATEGORIES, Category


class Aliases:
    """Tags by their old names, for each category."""

    def __init__(
        self,
        tag_of: Mapping[Category, Mapping[str, str]],
        tag_of_any: Mapping[str, str] | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.tag_of: Mapping[Category, Mapping[str, str]] = {c: dict(names) for c, names in tag_of.items() if names}
        """By category, each old name's tag."""
        if tag_of_any is None:
            tag_of_any = {name: tag for c in reversed(CATEGORIES) for name, tag in self.tag_of.get(c, {}).items()}
        self.tag_of_any: Mapping[str, str] = tag_of_any
        """Each old name's tag in a field of all categories."""
        self.left_out: Mapping[str, int] = left_out or {}
        """Numbers of rows of the table that do not count, by what they are."""
        self._names = {category: pa.array(list(names), pa.string()) for category, names in self.tag_of.items()}

    @classmethod
    def load(
        cls,
        file: Path,
        numbers: Mapping[str, Category] | None = None,
        categories: TagCategories | None = None,
        *,
        html_entities: bool = False,
    ) -> Aliases:
        """The aliases of `file`; see `read_tag_table` for what it may be.

        Of two tags of a category with the same alias, the first in the file has it; in a field of all categories, of
        any two tags. An alias of an alias stands for the tag at the end.

        Args:
            file: a table of tags with aliases, or a table of aliases.
            numbers: categories by numbers and names, besides Danbooru's.
            categories: where a table of aliases finds the categories of its tags.
            html_entities: whether to take back entities such as ``&#039;`` in names.

        Raises:
            ExportError: the file is no such table, or aliases lead back to themselves.
        """
        table = read_tag_table(file, "aliases", numbers, html_entities=html_entities)
        return _of_tags(table) if table.has_tags else _of_pairs(table, categories, file)

    def apply(self, lists: TagLists, category: Category) -> tuple[TagLists, int]:
        """`lists`, the tags of `category`, with aliases replaced, and how many uses were replaced."""
        names = self._names.get(category)
        return (lists, 0) if names is None else lists.renamed(self.tag_of[category], names)


def _of_tags(table: TagTable) -> Aliases:
    every: dict[str, str] = {}
    tag_of: dict[Category, dict[str, str]] = {category: {} for category in CATEGORIES}
    for (alias, tag), category_id in zip(table.aliases, table.alias_category_ids, strict=True):
        every.setdefault(alias, tag)
        for category in CATEGORIES if category_id < 0 else (CATEGORIES[category_id],):
            tag_of[category].setdefault(alias, tag)
    for category_id, category in enumerate(CATEGORIES):
        is_own = (table.category_ids == category_id) | (table.category_ids < 0)
        tag_of[category] = _without_tags(tag_of[category], table.tags.filter(pa.array(is_own)))
    return Aliases(tag_of, _without_tags(every, table.tags), table.left_out)


def _without_tags(tag_of: Mapping[str, str], tags: pa.Array[Any]) -> dict[str, str]:
    """`tag_of` without the names that are `tags` themselves."""
    is_tag = pc.is_in(pa.array(list(tag_of), pa.string()), value_set=tags).to_pylist()
    return {alias: tag for (alias, tag), is_one in zip(tag_of.items(), is_tag, strict=True) if not is_one}


def _of_pairs(table: TagTable, categories: TagCategories | None, file: Path) -> Aliases:
    tag_of = _resolved({alias: tag for alias, tag in table.aliases if alias != tag}, file)
    if categories is None:
        return Aliases(dict.fromkeys(CATEGORIES, tag_of), tag_of, table.left_out)
    ids = categories.ids_of(pa.array(list(tag_of.values()), pa.string()))
    by_category = {
        category: {
            alias: tag
            for (alias, tag), fits in zip(tag_of.items(), ((ids == index) | (ids < 0)).tolist(), strict=True)
            if fits
        }
        for index, category in enumerate(CATEGORIES)
    }
    return Aliases(by_category, tag_of, table.left_out)


def _resolved(tag_of: Mapping[str, str], file: Path) -> dict[str, str]:
    """`tag_of` with the tag at the end of each chain of aliases.

    Raises:
        ExportError: a chain has no end.
    """
    ends: dict[str, str] = {}
    for alias in tag_of:
        chain, name = {alias: None}, alias
        while name in tag_of and name not in ends:
            name = tag_of[name]
            if name in chain:
                names = list(chain)
                names = [*names[names.index(name) :], name]
                raise ExportError(
                    f"{file}: aliases lead back to themselves: {' → '.join(names)[:200]}; remove one of them"
                )
            chain[name] = None
        end = ends.get(name, name)
        ends.update((one, end) for one in chain if one != end)
    return {alias: ends[alias] for alias in tag_of}
