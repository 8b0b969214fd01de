"""Tags that exclude each other in a picture of one person, such as two colours of hair; completed captions avoid them.

The groups are a table of names, of which a vocabulary has some. Pairs of a group occur together in under 7% of the
posts with the rarer tag, among the bundled sample's posts of one person; ``docs/guides/complete-prompts.md`` has the
figures. A name outside the table excludes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.vocab import Vocab

_COLOURS: Final = (
    *("aqua", "black", "blonde", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "silver"),
    *("white", "yellow", "dark_blue", "light_blue", "light_brown", "light_green", "light_purple"),
)
_SHADES: Final = (
    *(("aqua", "blue", "light_blue"), ("blue", "dark_blue"), ("aqua", "green"), ("brown", "light_brown")),
    *(("green", "light_green"), ("purple", "light_purple"), ("grey", "silver", "white"), ("orange", "red")),
    *(("orange", "yellow"), ("blonde", "yellow")),
)
"""Colours that one thing may have at once: where one ends and another begins is a matter of taste."""


@dataclass(frozen=True)
class _Family:
    """Names that exclude each other.

    Attributes:
        names: the names.
        together: sets of names that do not exclude each other.
        unless: with one of these, no name of the family excludes another.
    """

    names: tuple[str, ...]
    together: tuple[tuple[str, ...], ...] = ()
    unless: tuple[str, ...] = ()


def _coloured(thing: str, *unless: str) -> _Family:
    """The colours of something that has one."""
    shades = tuple(tuple(f"{colour}_{thing}" for colour in colours) for colours in _SHADES)
    return _Family(tuple(f"{colour}_{thing}" for colour in _COLOURS), shades, (f"multicolored_{thing}", *unless))


_OPEN_MOUTH: Final = ("open_mouth", ":d", ";d", ":o", "xd", "parted_lips", "grin", "teeth")
_FAMILIES: Final = (
    _coloured(
        "hair",
        *("two-tone_hair", "gradient_hair", "streaked_hair", "colored_inner_hair", "split-color_hair", "rainbow_hair"),
        *("colored_tips", "roots_(hair)", "dyed_bangs"),
    ),
    _coloured("eyes", "heterochromia", "two-tone_eyes", "gradient_eyes", "rainbow_eyes"),
    _coloured("background", "two-tone_background", "gradient_background", "striped_background", "checkered_background"),
    _coloured("gloves", "two-tone_gloves", "mismatched_gloves"),
    _coloured("legwear", "two-tone_legwear", "striped_legwear", "mismatched_legwear"),
    _coloured("skirt", "two-tone_skirt", "plaid_skirt", "striped_skirt"),
    _Family(
        ("bald", "very_short_hair", "short_hair", "medium_hair", "long_hair", "very_long_hair", "absurdly_long_hair"),
        (("very_short_hair", "short_hair"), ("long_hair", "very_long_hair", "absurdly_long_hair")),
        ("asymmetrical_hair", "short_hair_with_long_locks"),
    ),
    _Family(
        ("flat_chest", "small_breasts", "medium_breasts", "large_breasts", "huge_breasts", "gigantic_breasts"),
        unless=("asymmetrical_breasts",),
    ),
    _Family(("closed_mouth", *_OPEN_MOUTH), (_OPEN_MOUTH,)),
    _Family(
        ("standing", "sitting", "wariza", "seiza", "kneeling", "lying", "squatting"),
        (("sitting", "wariza", "seiza", "kneeling"),),
    ),
    _Family(("full_body", "cowboy_shot", "upper_body", "portrait")),
    _Family(("indoors", "outdoors")),
    _Family(("day", "night")),
)
_SEVERAL_VIEWS: Final = (
    *("comic", "2koma", "3koma", "4koma", "5koma", "multiple_views", "reference_sheet", "expressions", "variations"),
    *("collage", "before_and_after", "multiple_persona", "dual_persona"),
)
"""With one of these, a person is seen more than once, and nothing of the families excludes anything."""
_NUMBERS: Final = ("1", "2", "3", "4", "5", "6+")
_SEVERAL_PEOPLE: Final = (
    *(f"{number}{who}s" for number in _NUMBERS[1:] for who in ("girl", "boy", "other")),
    *("multiple_girls", "multiple_boys", "multiple_others", "everyone", "couple", "solo_focus", "yuri", "yaoi"),
    *("hetero", "twins", "siblings", "sisters", "brothers", "clone", "holding_hands"),
)
_ONE: Final = ("1girl", "1boy", "1other")


class ExclusiveTags:
    """Which tags of a vocabulary exclude each other."""

    def __init__(self, vocab: Vocab) -> None:
        general = CATEGORIES.index(Category.GENERAL)
        start, stop = (int(vocab.category_offsets[general + i]) - vocab.num_special for i in (0, 1))
        index = {tag: i for i, tag in enumerate(vocab.tags[start:stop], start)}

        def indices(names: Iterable[str]) -> NDArray[np.int64]:
            return np.array([index[name] for name in names if name in index], dtype=np.int64)

        self._num_tags = vocab.num_tags
        self._families = [
            _Group.of([name for name in family.names if name in index], family.together, index, indices(family.unless))
            for family in _FAMILIES
        ]
        self._counts = [
            _Group.of([name for name in names if name in index], (), index, indices(()))
            for names in (
                ("1girl", *(f"{number}girls" for number in _NUMBERS[1:])),
                ("1boy", *(f"{number}boys" for number in _NUMBERS[1:])),
            )
        ]
        self._several_views = indices(_SEVERAL_VIEWS)
        self._several_people = indices(_SEVERAL_PEOPLE)
        self._one = indices(_ONE)
        self._solo = indices(["solo"])
        self._people = indices([*_ONE, *_SEVERAL_PEOPLE, "solo"])
        self._no_humans = indices(["no_humans"])

    def excluded_by(self, tags: NDArray[np.integer]) -> NDArray[np.int64]:
        """The tags that one of `tags` excludes, int64, ascending, each once; some may be among `tags`.

        A caption that names no number of people is of one person.
        """
        has = np.zeros(self._num_tags, dtype=np.bool_)
        has[tags] = True
        groups = list(self._counts)
        is_solo = has[self._solo].any()
        # Beside `solo`, a second kind of person is a mistake: implications that are counted say solo → 1girl.
        are_several = has[self._several_people].any() or (has[self._one].sum() > 1 and not is_solo)
        if not are_several and not has[self._several_views].any():
            groups += self._families
        found = [group.excluded_by(has) for group in groups]
        if is_solo:
            found.append(self._several_people)
            found += [self._one[~has[self._one]]] * bool(has[self._one].any())
        found += [self._solo] * bool(are_several)
        found += [self._people] * bool(has[self._no_humans].any())
        found += [self._no_humans] * bool(has[self._people].any())
        return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)

    def contradictions(self, tags: NDArray[np.integer]) -> NDArray[np.int64]:
        """Those of `tags` that another of them excludes, int64, ascending; empty if the caption is consistent."""
        found = np.intersect1d(self.excluded_by(tags), tags)
        people = np.intersect1d(self._one, tags)
        is_mixed = len(people) > 1 and np.isin(self._solo, tags).any()
        return np.union1d(found, np.concatenate([people, self._solo])) if is_mixed else found


@dataclass(frozen=True, eq=False)
class _Group:
    """The tags of a family that are in the vocabulary: int64 ``[m]``, and which exclude which: bool ``[m, m]``."""

    members: NDArray[np.int64]
    excludes: NDArray[np.bool_]
    unless: NDArray[np.int64]

    @classmethod
    def of(
        cls, names: list[str], together: Iterable[Iterable[str]], index: dict[str, int], unless: NDArray[np.int64]
    ) -> _Group:
        excludes = ~np.eye(len(names), dtype=np.bool_)
        for allowed in together:
            places = [names.index(name) for name in allowed if name in names]
            excludes[np.ix_(places, places)] = False
        return cls(np.array([index[name] for name in names], dtype=np.int64), excludes, unless)

    def excluded_by(self, has: NDArray[np.bool_]) -> NDArray[np.int64]:
        present = has[self.members]
        if not present.any() or has[self.unless].any():
            return np.empty(0, dtype=np.int64)
        return self.members[self.excludes[present].any(axis=0)]
