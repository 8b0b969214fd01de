"""Old names of tags, replaced while posts are read: a table of tag, category, post_count and aliases.

An alias counts only in the field of its tag's category, and a name that is a tag of that category itself is never
replaced.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa

from booru_embed_core.posts.lines import raw_lines
from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import TAG_SEPARATOR, Category

_DANBOORU_CATEGORIES: Final = {
    "0": Category.GENERAL,
    "1": Category.ARTIST,
    "3": Category.COPYRIGHT,
    "4": Category.CHARACTER,
    "5": Category.META,
}
_NAME_COLUMNS: Final = ("tag", "name")


class Aliases:
    """Tags by their old names, category by category."""

    def __init__(self, tag_of: Mapping[Category, Mapping[str, str]]) -> None:
        self._tag_of = {category: dict(names) for category, names in tag_of.items() if names}
        self._names = {category: pa.array(list(names), pa.string()) for category, names in self._tag_of.items()}

    @classmethod
    def load(cls, file: Path) -> Aliases:
        """The aliases of `file`: CSV with a header, aliases separated by spaces; plain, gzip or zstd.

        Of two tags of a category with the same alias the first in the file has it.

        Raises:
            ExportError: it is no such table, or a category is none of Danbooru's numbers.
        """
        tags: dict[Category, set[str]] = {category: set() for category in Category}
        tag_of: dict[Category, dict[str, str]] = {category: {} for category in Category}
        try:
            rows = csv.reader((raw.decode("utf-8") for raw in raw_lines(file)), strict=True)
            header = next(rows, [])
            name = next((header.index(column) for column in _NAME_COLUMNS if column in header), None)
            if name is None or not {"category", "aliases"} <= set(header):
                raise ExportError(f"{file}: found the columns {','.join(header)[:200]!r}, wanted tag,category,aliases")
            place, aliases = header.index("category"), header.index("aliases")
            for row in filter(None, rows):
                if len(row) != len(header) or row[place] not in _DANBOORU_CATEGORIES:
                    raise ExportError(
                        f"{file} line {rows.line_num}: {','.join(row)[:80]!r} is no tag with a category of "
                        f"{', '.join(_DANBOORU_CATEGORIES)}; mend the line"
                    )
                category = _DANBOORU_CATEGORIES[row[place]]
                tags[category].add(row[name])
                for alias in filter(None, row[aliases].split(TAG_SEPARATOR)):
                    tag_of[category].setdefault(alias, row[name])
        except (UnicodeDecodeError, csv.Error) as error:
            raise ExportError(f"{file}: not a CSV file in UTF-8 ({error}); mend it or remove [posts] aliases") from None
        except FileNotFoundError:
            raise ExportError(f"{file}: no such file; correct [posts] aliases") from None
        return cls({c: {alias: tag for alias, tag in tag_of[c].items() if alias not in tags[c]} for c in Category})

    def apply(self, lists: TagLists, category: Category) -> tuple[TagLists, int]:
        """`lists` of tags of `category` with tags for aliases, and how many aliases were replaced."""
        names = self._names.get(category)
        return (lists, 0) if names is None else lists.renamed(self._tag_of[category], names)
