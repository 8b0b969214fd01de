"""What an export calls its columns and ratings, and how it writes lists of tags, flags and nothing.

Danbooru's names are the canonical ones: a reader translates a file's names first and uses the canonical ones from then
on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from booru_embed_core.posts.tag_tables.numbers import DANBOORU_NUMBERS
from booru_embed_core.schema import (
    ALL_TAGS_COLUMN,
    EXPORT_RATING_NAMES,
    FLAG_COLUMNS,
    TAG_COLUMNS,
    Category,
)
from booru_embed_core.settings import PRESETS, SourceSettings

NULL_WORDS: Final = ("\\N", "None", "NaN", "nan", "null", "NULL", "<NA>", "N/A", "NA", "n/a", "#N/A", "nil", "[]", "{}")
"""How databases, data frames and R write nothing; in a column of numbers, of ratings or of flags always."""

TRUE_WORDS: Final = ("true", "True", "TRUE", "t", "1", "1.0", "T", "yes", "Yes", "YES", "y", "Y")
FALSE_WORDS: Final = ("false", "False", "FALSE", "f", "0", "0.0", "", "F", "no", "No", "NO", "n", "N")
"""How exports spell the flags `FLAG_COLUMNS`; an absent or null one is false too."""
STATUS_WORDS: Final = ("active", "pending", "deleted", "flagged", "banned", "appealed")
"""How sites spell the status of a post; a flag that is read from it is true where the status is its own word."""

SITE_BITS: Final = 50
"""Ids of a named site are below 2 to this power; the bits above hold the site's number."""

_E621_GROUPS: Final[Mapping[str, Category]] = {
    "species": Category.GENERAL,
    "contributor": Category.ARTIST,
    "director": Category.ARTIST,
    "lore": Category.META,
    "invalid": Category.META,
}
"""e621's groups of tags that Danbooru has not; as names they mean one thing only."""

_OTHER_SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    # MongoDB's export writes the types of numbers, and may have the ids of posts as those of documents.
    "id": ("id.$numberLong", "id.$numberInt", "_id", "_id.$numberLong", "_id.$numberInt"),
    "score": ("score.total", "score.$numberInt", "score.$numberLong", "score.$numberDouble"),
    "is_deleted": ("flags.deleted",),
    "is_flagged": ("flags.flagged",),
    ALL_TAGS_COLUMN: ("tags",),
    **{f"tag_string_{c}": (f"tags.{c}", f"tags_{c}", str(c)) for c in Category},
}
"""Where else a column is looked for, if the settings do not name it and it is not there by its own name."""


def _with_spellings(ratings: Mapping[str, str]) -> dict[str, str]:
    """`ratings` in other spellings too: ``General``, as sites show them; ``rating:general``, a tag; ``0.0``, a float.

    Those of `ratings` come first, since they are the most frequent ones.
    """
    others: dict[str, str] = {}
    for word, rating in ratings.items():
        spelled = (f"{word}.0",) if word.isdecimal() else (word.capitalize(), word.upper())
        for one in (*spelled, f"rating:{word}"):
            others.setdefault(one, rating)
    return {**ratings, **{word: rating for word, rating in others.items() if word not in ratings}}


@dataclass(frozen=True)
class Conventions:
    """The conventions of an export, the source; by default they are Danbooru's."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """The source's column by the canonical one, for columns that the settings name; ``""`` for one that it lacks."""
    ratings: Mapping[str, str] = field(default_factory=lambda: _with_spellings(EXPORT_RATING_NAMES))
    """One of `RATINGS` by each value that the source may have for it; other values are invalid."""
    categories: Mapping[str, Category] = field(default_factory=dict)
    """The category by each number or name that the source has for it, beside Danbooru's."""
    true_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each flag that the settings name, the values that mean true; all others mean false."""
    tag_separator: str = " "
    """What separates the tags of a field: a space, a mark such as a comma, a line break, or unknown: ``"auto"``.

    ``"list"`` stands for a printed list.
    """
    allow_commas: bool = False
    """Whether a tag may hold a comma, although spaces separate tags."""
    html_entities: bool = False
    """Whether tags hold entities such as ``&#039;``, which are taken back."""
    null_words: tuple[str, ...] | None = ()
    """Words that stand for nothing where they are a whole field of tags; None if unknown."""
    missing_id: str | None = None
    """``"row"`` where posts without an id get one from their file and row."""
    missing_rating: str | None = None
    """The rating of posts that have none; None to reject them."""
    missing_score: int | None = None
    """The score of posts that have none; None to reject them."""
    table: str | None = None
    """The table of the posts in a database; None to look for it."""
    max_id: int = 2**63 - 1
    """The greatest id that fits."""
    optional: frozenset[str] = frozenset()
    """Flags of `columns` that the source need not have, since a preset names them and not the settings."""

    @classmethod
    def of(cls, source: SourceSettings) -> Self:
        """The conventions that the settings of a `source` give."""
        true_values = source.true_values.model_dump(exclude_unset=True, exclude_none=True)
        return cls(
            columns=source.columns.model_dump(exclude_unset=True),
            ratings=_with_spellings({**EXPORT_RATING_NAMES, **source.rating_names}),
            categories=source.category_numbers,
            true_values={name: tuple(values) for name, values in true_values.items()},
            tag_separator=source.tag_separator,
            allow_commas=source.tag_separator == " ",
            html_entities=source.html_entities,
            null_words=source.null_words,
            missing_id=None if source.missing_id == "reject" else source.missing_id,
            missing_rating=None if source.missing_rating == "reject" else source.missing_rating,
            missing_score=None if source.missing_score == "reject" else source.missing_score,
            table=source.table,
            max_id=2**63 - 1 if source.site is None else 2**SITE_BITS - 1,
            optional=_preset_flags(source),
        )

    @property
    def known_categories(self) -> dict[str, Category]:
        """The category by each number or name that a tag in a post may give for it."""
        return {**DANBOORU_NUMBERS, **{str(c): c for c in Category}, **_E621_GROUPS, **self.categories}

    @property
    def has_site(self) -> bool:
        """Whether ids count within a site, which leaves them fewer bits."""
        return self.max_id < 2**63 - 1

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be found out from the file."""
        return self.tag_separator != "auto" and self.null_words is not None

    def source(self, name: str) -> str:
        """The source's name of the canonical column `name`."""
        return self.columns.get(name, name)

    def canonical(self, found: Iterable[str]) -> tuple[str, ...]:
        """The canonical names of the source's columns `found`; columns that have none keep their names."""
        found = tuple(found)
        canonical = {source: name for name, source in self._spelled(found).items()}
        # The settings may map a canonical name to another column: then a column of that very name is not it.
        return tuple(canonical.get(name, f"other {name}" if name in self.columns else name) for name in found)

    def _spelled(self, found: Collection[str]) -> dict[str, str]:
        """The source's column by the canonical one, for those in `found` that have another name there."""
        given = {name: source for name, source in self.columns.items() if source}
        has_own = {*found, *given}
        spelled = dict(given)
        used = set(given.values())
        for name, others in _OTHER_SPELLINGS.items():
            if name in has_own or name in self.columns:
                continue
            other = next((other for other in others if other in found and other not in used), None)
            if other is not None:
                spelled[name] = other
        if any(name in TAG_COLUMNS for name in (*spelled, *found)) and ALL_TAGS_COLUMN not in given:
            spelled.pop(ALL_TAGS_COLUMN, None)
        return spelled


DANBOORU: Final = Conventions()


def _preset_flags(source: SourceSettings) -> frozenset[str]:
    columns = PRESETS[source.preset].get("columns", {}) if source.preset else {}
    return frozenset(
        name for name in FLAG_COLUMNS if name in columns and columns[name] == getattr(source.columns, name)
    )


def flag_words(name: str, conventions: Conventions = DANBOORU) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The values of flag `name` that mean true, and those that mean false; None for all others."""
    if name in conventions.true_values:
        return conventions.true_values[name], None
    own = name.removeprefix("is_")
    return (*TRUE_WORDS, own), (*FALSE_WORDS, *NULL_WORDS, *(word for word in STATUS_WORDS if word != own))
