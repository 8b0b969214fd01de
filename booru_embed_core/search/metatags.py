"""The metatags of queries, ``name:value`` as on Danbooru: those that the index answers, and those that it cannot."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Final, Literal

from booru_embed_core.errors import first_line
from booru_embed_core.schema import RATING_NAMES, RATINGS
from booru_embed_core.search.filters import Order, RatingIs, Within
from booru_embed_core.tags.normalize import PREFIXES

ANSWERED: Final = ("rating", "score", "id", "order")
_OTHERS: Final = """
    age ai appealer appeals approvals approver artcomm artverified arttags chartags child comm comment comment_count
    commentary commentaryupdater commenter comments copytags date deletedby delreason description disapproved downvote
    downvotes duration embedded exif ext fav favcount favgroup favoritedby filesize filetype flagger flags gentags
    has hassource height hideanon inpool invtags is ischild isparent limit lortags locked md5 metatags mpixels
    note note_count notelocked noter notes noteupdater ordfav ordfavgroup ordpool parent pending_replacements pixelhash
    pixiv pixiv_id pool pool_count posttags qtags random randseed ratinglocked ratio replacements reverse search set
    sort source spectags status statuslocked tagcount type unaliased updated updater uploader upvote upvotes url user
    user_id username voted votedup voteddown width
"""
UNANSWERED: Final = frozenset(_OTHERS.split())
"""Metatags of Danbooru, of e621 and of Gelbooru that ask for what the index does not hold."""
LIKE_A_FILTER: Final = re.compile(r"[<>=]|[-\d]*\.\.")
"""Values that no name of a tag has."""
ORDERS: Final = {
    "score": Order("score", descending=True),
    "score_desc": Order("score", descending=True),
    "score_asc": Order("score", descending=False),
    "id": Order("post_id", descending=False),
    "id_asc": Order("post_id", descending=False),
    "id_desc": Order("post_id", descending=True),
}
"""By the values of ``order:``; as on Danbooru, scores begin with the highest and ids with the lowest."""
_COLUMNS: Final[dict[str, Literal["score", "post_id"]]] = {"score": "score", "id": "post_id"}
NAME: Final = re.compile(r"([a-z][a-z0-9_]*):", re.IGNORECASE)
"""What a metatag begins with."""
_SHOWN: Final = 80
"""Characters of a word that a message shows."""
_NAMED: Final = re.compile(r"([a-z][a-z0-9_]+):[a-z]\w*\Z", re.IGNORECASE)
_INTEGER: Final = r"-?\d{1,18}"
_BETWEEN: Final = re.compile(rf"({_INTEGER})?\.\.(\.?)({_INTEGER})?")
_COMPARED: Final = re.compile(rf"(<=|>=|<|>|=|)({_INTEGER})")
_MIN_NUMBER: Final = -(2**63)
MAX_NUMBER: Final = 2**63 - 1
_ALIKE: Final = 0.8

IsTag = Callable[[str], bool]


def is_metatag(word: str, is_tag: IsTag) -> bool:
    """Whether `word` filters or sorts posts, or looks as if it should: ``score:>10``, but not ``re:zero`` or ``:3``."""
    found = NAME.match(word)
    if not found or is_tag(word):
        return False
    name = found[1].casefold()
    if name in ANSWERED or name in UNANSWERED:
        return True
    looks_like_one = LIKE_A_FILTER.match(word, found.end()) or get_close_matches(name, ANSWERED, 1, _ALIKE)
    return bool(looks_like_one) and not is_tag(name) and name not in PREFIXES


def refuse_named_values(unknown: Iterable[str]) -> None:
    """Refuses words such as ``style:pixel`` among those that name no tag: they ask for more than a tag.

    Raises:
        ValueError: one of `unknown` has a name before a colon that is no category.
    """
    for word in unknown:
        found = _NAMED.match(word)
        if found and found[1].casefold() not in PREFIXES:
            read_metatag(word)


def name_and_value(word: str) -> tuple[str, str]:
    """The name of a metatag in lower case, and its value."""
    name, _, value = word.partition(":")
    return name.casefold(), value.strip()


def read_metatag(word: str) -> RatingIs | Within | Order:
    """The filter or the order that `word` asks for.

    Raises:
        ValueError: the index cannot answer it, or its value is not one that it may have.
    """
    name, value = name_and_value(word)
    told = first_line(word, _SHOWN)
    if name == "rating":
        return RatingIs(_ratings(told, value))
    if name == "order":
        if value.casefold() not in ORDERS:
            raise ValueError(f"{told}: posts can be ordered by {', '.join(ORDERS)}")
        return ORDERS[value.casefold()]
    if name in _COLUMNS:
        return Within(_COLUMNS[name], tuple(_range(told, part) for part in value.split(",")))
    if name == "limit":
        raise ValueError(f"{told}: give the number of posts as k (-k on the command line)")
    close = get_close_matches(name, ANSWERED, 1, _ALIKE) if name not in UNANSWERED else []
    meant = f"write {close[0]}:{value[:_SHOWN]}" if close else "leave it out"
    raise ValueError(
        f"{told}: the index knows tags, ratings, scores and ids of posts, but not {name[:_SHOWN]!r}; {meant}"
    )


def _ratings(word: str, value: str) -> frozenset[int]:
    names = value.casefold().split(",")
    for name in names:
        if name not in RATING_NAMES:
            raise ValueError(
                f"{word} in the query: {name[:_SHOWN]!r} is not one of {', '.join(RATINGS)}; write rating:g or "
                "rating:g,s"
            )
    return frozenset(RATINGS.index(RATING_NAMES[name]) for name in names)


def _range(word: str, value: str) -> tuple[int, int]:
    """The lowest and the highest number of ``10``, ``>10``, ``>=10``, ``<10``, ``<=10``, ``5..10``, ``5..``, ``..10``.

    As on Danbooru, ``5...10`` ends before 10, and ``10..5`` is ``5..10``.
    """
    compared = _COMPARED.fullmatch(value)
    if compared:
        sign, number = compared[1], int(compared[2])
        lowest = {"<": _MIN_NUMBER, "<=": _MIN_NUMBER, ">": number + 1}.get(sign, number)
        highest = {">": MAX_NUMBER, ">=": MAX_NUMBER, "<": number - 1}.get(sign, number)
        return lowest, highest
    between = _BETWEEN.fullmatch(value)
    if not between or not (between[1] or between[3]):
        name, _ = name_and_value(word)
        raise ValueError(
            f"{word}: {value[:_SHOWN]!r} is not a number or a range; write {name}:10, {name}:>=10, {name}:5..10 or "
            f"{name}:1,2,3"
        )
    lowest = int(between[1]) if between[1] else _MIN_NUMBER
    highest = int(between[3]) if between[3] else MAX_NUMBER
    lowest, highest = min(lowest, highest), max(lowest, highest)
    return lowest, highest - (1 if between[2] and between[3] else 0)
