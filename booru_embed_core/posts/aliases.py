"""Old names of tags, replaced while posts are read: a table of tag, category, post_count and aliases.

An alias counts only in the field of its tag's category. A name that is itself a tag of that category is never replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.posts.tag_table import read_tag_table
from booru_embed_core.schema import TAG_SEPARATOR, Category


class Aliases:
    """Tags by their old names, for each category."""

    def __init__(self, tag_of: Mapping[Category, Mapping[str, str]]) -> None:
        self.tag_of: Mapping[Category, Mapping[str, str]] = {c: dict(names) for c, names in tag_of.items() if names}
        """By category, each old name's tag."""
        self._names = {category: pa.array(list(names), pa.string()) for category, names in self.tag_of.items()}

    @classmethod
    def load(cls, file: Path, numbers: Mapping[str, Category] | None = None) -> Aliases:
        """The aliases of `file`: CSV with a header, aliases separated by spaces; plain, gzip or zstd.

        Of two tags of a category with the same alias, the first in the file has it.

        Raises:
            ExportError: the file is no such table, or a category is neither one of Danbooru's numbers nor of `numbers`.
        """
        tags: dict[Category, set[str]] = {category: set() for category in Category}
        tag_of: dict[Category, dict[str, str]] = {category: {} for category in Category}
        for tag, category, (aliases,) in read_tag_table(file, "aliases", ["aliases"], numbers):
            tags[category].add(tag)
            for alias in filter(None, aliases.split(TAG_SEPARATOR)):
                tag_of[category].setdefault(alias, tag)
        return cls({c: {alias: tag for alias, tag in tag_of[c].items() if alias not in tags[c]} for c in Category})

    def apply(self, lists: TagLists, category: Category) -> tuple[TagLists, int]:
        """`lists`, the tags of `category`, with aliases replaced, and how many uses were replaced."""
        names = self._names.get(category)
        return (lists, 0) if names is None else lists.renamed(self.tag_of[category], names)
