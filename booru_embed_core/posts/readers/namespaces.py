"""Tags with a namespace, such as ``creator:somebody``, as Hydrus and downloaders for it write them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from booru_embed_core.schema import RATINGS, Category

NAMESPACES: Final[Mapping[str, Category]] = {
    **dict.fromkeys(("artist", "creator", "studio"), Category.ARTIST),
    **dict.fromkeys(("copyright", "series"), Category.COPYRIGHT),
    **dict.fromkeys(("character", "person"), Category.CHARACTER),
    **dict.fromkeys(("medium", "meta"), Category.META),
    **dict.fromkeys(("general", "species"), Category.GENERAL),
}
"""The category of the tags of a namespace. No tag of Danbooru begins with one of them."""
RATING: Final = "rating"

_MAX_COUNTED: Final = 1000
_NAMESPACE: Final = re.compile(r"\s*([a-z][a-z0-9 _-]*):\s*(?=\S)", re.IGNORECASE)


@dataclass
class Namespaced:
    """Tags by what their namespaces say.

    Attributes:
        others: tags without a namespace that is known, whole.
        by_category: the other tags without their namespaces.
        ratings: the values of ``rating:``.
    """

    others: list[str] = field(default_factory=list)
    by_category: dict[Category, list[str]] = field(default_factory=dict)
    ratings: list[str] = field(default_factory=list)

    def rating(self, names: Mapping[str, str]) -> str | None:
        """The one of `ratings` that is the most explicit by `names`, as it is written; an unknown one if all are."""
        known = [rating for rating in self.ratings if rating in names]
        return max(known or self.ratings, key=lambda rating: RATINGS.index(names[rating]) if known else 0, default=None)


def split_namespaces(
    tags: Iterable[str], given: Mapping[str, Category], unknown: Counter[str] | None = None
) -> Namespaced:
    """`tags` by their namespaces; `given` has the categories of further ones. Others are counted in `unknown`."""
    split = Namespaced()
    for tag in tags:
        match = _NAMESPACE.match(tag)
        namespace = match[1].lower() if match else ""
        category = given.get(namespace) or NAMESPACES.get(namespace)
        if match and namespace == RATING:
            split.ratings.append(tag[match.end() :].strip().lower())
        elif match and category:
            split.by_category.setdefault(category, []).append(tag[match.end() :])
        else:
            split.others.append(tag)
            if match and unknown is not None and (namespace in unknown or len(unknown) < _MAX_COUNTED):
                unknown[namespace] += 1
    return split
