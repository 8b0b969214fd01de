"""The category of each tag, for exports that have all tags of a post in one field, ``tag_string``.

What the table may be is in ``tag_table.py``.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.posts.tag_table import read_tag_table
from booru_embed_core.schema import CATEGORIES, TAG_SEPARATOR, Category, tag_column

_GENERAL: Final = CATEGORIES.index(Category.GENERAL)


@dataclass(frozen=True)
class SplitTags:
    """The tags of ``n`` fields by category.

    Attributes:
        columns: by tag column, a string array ``[n]``; a field that is null is null in all of them.
        num_tags: uses of tags in all fields.
        num_unknown: those whose tag has no known category.
        num_old: old names in each field, int64 ``[n]``.
    """

    columns: Mapping[str, pa.Array[Any]]
    num_tags: int
    num_unknown: int
    num_old: NDArray[np.int64]


class TagCategories:
    """The categories of tags; an unknown tag counts as general."""

    def __init__(self, category_of: Mapping[str, Category], left_out: Mapping[str, int] | None = None) -> None:
        self._tags: pa.Array[Any] = pa.array(list(category_of), pa.string())
        self._category_ids = np.array([CATEGORIES.index(one) for one in category_of.values()], dtype=np.int8)
        self.left_out: Mapping[str, int] = left_out or {}
        """Numbers of rows of the table that are no tags, by what they are."""

    @classmethod
    def load(
        cls, file: Path, numbers: Mapping[str, Category] | None = None, *, html_entities: bool = False
    ) -> TagCategories:
        """The categories in `file`, a table of tags; see `read_tag_table`. Of two rows with one tag, the first counts.

        A tag with an entity such as ``&#039;`` is known by both spellings.

        Args:
            file: the table.
            numbers: categories by numbers and names, besides Danbooru's.
            html_entities: whether entities are taken back.

        Raises:
            ExportError: the file is no such table, or a category is unknown.
        """
        table = read_tag_table(file, "tag_categories", numbers, html_entities=html_entities)
        tags, ids = table.tags, table.category_ids
        is_escaped: Any = pc.match_substring_regex(tags, "&#?[0-9A-Za-z]+;")
        if pc.any(is_escaped).as_py():
            plain = [html.unescape(str(tag)) for tag in tags.filter(is_escaped).to_pylist()]
            tags = pa.concat_arrays([tags, pa.array(plain, pa.string())])
            ids = np.concatenate([ids, ids[is_escaped.to_numpy(zero_copy_only=False)]])
        coded = tags.dictionary_encode()
        found = cls({}, table.left_out)
        found._tags = coded.dictionary
        found._category_ids = ids[np.unique(coded.indices.to_numpy(), return_index=True)[1]]
        return found

    def ids_of(self, tags: pa.Array[Any]) -> NDArray[np.int8]:
        """The category_id of each of `tags`, int8 ``[n]``; -1 for an unknown one."""
        indices: Any = pc.index_in(tags, value_set=self._tags)
        ids = np.full(len(tags), -1, dtype=np.int8)
        is_known = indices.is_valid().to_numpy(zero_copy_only=False)
        ids[is_known] = self._category_ids[indices.drop_null().to_numpy()]
        return ids

    def split(self, fields: Any, tag_of: Mapping[str, str] = MappingProxyType({})) -> SplitTags:
        """The tags of `fields`, an Arrow string array ``[n]``; old names, the keys of `tag_of`, are replaced first."""
        lists: Any = pc.split_pattern(fields, TAG_SEPARATOR)
        tags: Any = pc.list_flatten(lists)
        posts: Any = pc.list_parent_indices(lists)
        is_tag = pc.not_equal(tags, pa.scalar(""))
        tags, posts = tags.filter(is_tag), posts.filter(is_tag).to_numpy(zero_copy_only=False)
        old: Any = pc.index_in(tags, value_set=pa.array(list(tag_of), pa.string()))
        num_old = np.bincount(posts[old.is_valid().to_numpy(zero_copy_only=False)], minlength=len(fields))
        if num_old.any():  # before categories are looked up: the table need not hold old names
            tags = pc.coalesce(pa.array(list(tag_of.values()), pa.string()).take(old), tags)
        category_ids = self.ids_of(tags)
        is_known = category_ids >= 0
        category_ids[~is_known] = _GENERAL
        is_missing = fields.is_null()
        columns = {}
        for category_id, category in enumerate(CATEGORIES):
            is_own = category_ids == category_id
            ends = np.cumsum(np.bincount(posts[is_own], minlength=len(fields)))
            offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
            own = pc.binary_join(pa.ListArray.from_arrays(offsets, tags.filter(pa.array(is_own))), TAG_SEPARATOR)
            columns[tag_column(category)] = pc.if_else(is_missing, pa.scalar(None, pa.string()), own)
        return SplitTags(columns, len(tags), int(len(tags) - is_known.sum()), num_old)
