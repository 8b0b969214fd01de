"""Old names of tags, replaced while posts are read: a table of tag, category, post_count and aliases.

An alias counts only in the field of its tag's category. A name that is itself a tag of that category is never replaced.
In a field of all categories an alias of any category counts, and no name that is a tag of any category is replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pyarrow as pa

from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.posts.tag_table import read_tag_table
from booru_embed_core.schema import CATEGORIES, TAG_SEPARATOR, Category


class Aliases:
    """Tags by their old names, for each category."""

    def __init__(
        self, tag_of: Mapping[Category, Mapping[str, str]], tag_of_any: Mapping[str, str] | None = None
    ) -> None:
        self.tag_of: Mapping[Category, Mapping[str, str]] = {c: dict(names) for c, names in tag_of.items() if names}
        """By category, each old name's tag."""
        if tag_of_any is None:
            tag_of_any = {name: tag for c in reversed(CATEGORIES) for name, tag in self.tag_of.get(c, {}).items()}
        self.tag_of_any: Mapping[str, str] = tag_of_any
        """Each old name's tag in a field of all categories."""
        self._names = {category: pa.array(list(names), pa.string()) for category, names in self.tag_of.items()}

    @classmethod
    def load(cls, file: Path, numbers: Mapping[str, Category] | None = None) -> Aliases:
        """The aliases of `file`: CSV with a header, plain, gzip or zstd.

        Aliases are separated by spaces, or by commas where no line has a space between aliases. Of two tags of a
        category with the same alias, the first in the file has it; in a field of all categories, of any two tags.

        Raises:
            ExportError: the file is no such table, or a category is neither one of Danbooru's numbers nor of `numbers`.
        """
        tags: dict[Category, set[str]] = {category: set() for category in Category}
        tag_of: dict[Category, dict[str, str]] = {category: {} for category in Category}
        tag_of_any: dict[str, str] = {}
        lines = list(read_tag_table(file, "aliases", ["aliases"], numbers))
        separator = _separator([aliases for _, _, (aliases,) in lines])
        for tag, category, (aliases,) in lines:
            tags[category].add(tag)
            for alias in filter(None, aliases.split(separator)):
                tag_of[category].setdefault(alias, tag)
                tag_of_any.setdefault(alias, tag)
        every = frozenset().union(*tags.values())
        return cls(
            {c: {alias: tag for alias, tag in tag_of[c].items() if alias not in tags[c]} for c in Category},
            {alias: tag for alias, tag in tag_of_any.items() if alias not in every},
        )

    def apply(self, lists: TagLists, category: Category) -> tuple[TagLists, int]:
        """`lists`, the tags of `category`, with aliases replaced, and how many uses were replaced."""
        names = self._names.get(category)
        return (lists, 0) if names is None else lists.renamed(self.tag_of[category], names)


def _separator(fields: Collection[str]) -> str:
    """A comma where it stands between names of some field and no field has a space, as in a1111-tagcomplete's table."""
    if any(TAG_SEPARATOR in field for field in fields):
        return TAG_SEPARATOR
    return "," if any("," in field and all(field.split(",")) for field in fields) else TAG_SEPARATOR
