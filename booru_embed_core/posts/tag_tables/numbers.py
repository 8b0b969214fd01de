"""The category that a table's number or word for one stands for.

Sites number their categories differently beyond Danbooru's own: what a number means on several of them is never
guessed, and ``[posts] category_numbers`` says it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, Final, TypeAlias

from booru_embed_core.schema import Category

DANBOORU_NUMBERS: Final[Mapping[str, Category]] = {
    "0": Category.GENERAL,
    "1": Category.ARTIST,
    "3": Category.COPYRIGHT,
    "4": Category.CHARACTER,
    "5": Category.META,
}
_WORDS: Final[Mapping[str, Category]] = {
    **{category.value: category for category in Category},
    "metadata": Category.META,
    "tag": Category.GENERAL,  # Gelbooru's word
}
_E621: Final[Mapping[str, str]] = {
    "2": "contributor",
    "6": "invalid",
    "7": "meta",
    "8": "lore",
    "species": "",
    "lore": "",
    "invalid": "",
    "contributor": "",
}
_RATING_NUMBER: Final = "9"
_RATING_NAMES: Final = frozenset({"general", "safe", "sensitive", "questionable", "explicit"})


class Site(Enum):
    """A kind of site whose numbers differ from Danbooru's, and whose tables can be told from others."""

    GELBOORU = auto()
    MOEBOORU = auto()


class NoTag(Enum):
    """Rows of a table of tags that are none."""

    RATING = "ratings"
    DEPRECATED = "deprecated tags"


Meaning: TypeAlias = Category | NoTag | None
"""What a value of the column of categories stands for; None if unknown."""


class CategoryNumbers(dict[Any, Meaning]):
    """The meaning of each value of the column of categories; the values that occur are remembered."""

    def __init__(self, numbers: Mapping[str, Category] | None = None, site: Site | None = None) -> None:
        super().__init__()
        self._known: dict[str, Meaning] = {**DANBOORU_NUMBERS, **_WORDS}
        self._known["rating"] = NoTag.RATING
        self._known["deprecated"] = NoTag.DEPRECATED
        if site is Site.GELBOORU:
            self._known["6"] = NoTag.DEPRECATED
        if site is Site.MOEBOORU:
            del self._known["5"]
        self._known.update({name.lower(): category for name, category in (numbers or {}).items()})
        self._site = site

    def __missing__(self, value: Any) -> Meaning:
        self[value] = meaning = self._known.get(_word(value))
        return meaning

    def meanings(self, values: Sequence[Any]) -> list[Meaning]:
        """The meaning of each of `values`."""
        try:
            return [self[value] for value in values]
        except TypeError:  # a list or an object is no category, and no key of this
            return [self[value if isinstance(value, (str, int, float)) else str(value or "")] for value in values]

    def is_rating(self, name: str, value: Any) -> bool:
        """Whether the row `name` with the unknown `value` is a rating, as in the tables of WD taggers."""
        return _word(value) == _RATING_NUMBER and name in _RATING_NAMES

    def problem(self, value: Any) -> str:
        """What is wrong with the unknown `value`, and the remedy."""
        word = _word(value)
        key = word[:40] if re.fullmatch(r"[\w-]+", word, re.ASCII) else f'"{word[:40]}"'
        if not word:
            return 'no category; correct it or set [posts] category_numbers, such as { "" = "general" }'
        if self._site is Site.MOEBOORU and word in ("5", "6"):
            what = ", which is circle on yande.re and style on Konachan" if word == "5" else ""
            return f'the type {word!r}{what}; set [posts] category_numbers, such as {{ {key} = "artist" }}'
        hint = ' or, for e621, preset = "e621-export"' if word in _E621 else ""
        known = ", ".join(name for name in self._known if name.isdigit() and isinstance(self._known[name], Category))
        return (
            f"the category {word[:40]!r}, and none of {known} or {', '.join(Category)}; correct it or set [posts] "
            f'category_numbers, such as {{ {key} = "general" }}{hint}'
        )


def _word(value: Any) -> str:
    """`value` as one word: data frames make ``4.0`` of 4 where another row has none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = "" if value is None else str(value).strip().lower()
    return word.removesuffix(".0") if word.removesuffix(".0").isdigit() else word
