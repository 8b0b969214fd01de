"""What people type to search posts, taken apart: captions to add and to subtract, ratings, the id of a post.

``hatsune_miku - twintails + short_hair`` is three captions with signs; a sign stands between spaces, since tags contain
both. ``rating:g`` (or ``rating:g,s``, ``rating:general``) and ``id:123`` may stand anywhere, as on Danbooru.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from booru_embed_core.schema import RATINGS

_SIGN: Final = re.compile(r"\s+([+-])(?=\s)")
_RATING: Final = re.compile(r"(?<!\S)rating:(\S*?),?(?!\S)", re.IGNORECASE)
_ID: Final = re.compile(r"(?<!\S)id:(\d{1,18}),?(?!\S)", re.IGNORECASE)
_RATING_NAMES: Final = {"general": "g", "sensitive": "s", "questionable": "q", "explicit": "e"}


@dataclass(frozen=True)
class Query:
    """A query taken apart.

    Attributes:
        terms: captions with their signs, 1 or -1; empty where there is nothing but filters.
        ratings: the only ones asked for; None is any.
        post_ids: posts whose embeddings are added to the terms.
    """

    terms: tuple[tuple[int, str], ...]
    ratings: frozenset[str] | None = None
    post_ids: tuple[int, ...] = ()


def parse_query(text: str) -> Query:
    """The parts of `text`.

    Raises:
        ValueError: an unknown rating, or a sign with nothing on one side of it.
    """
    ratings = [_read_ratings(found) for found in _RATING.findall(text)]
    post_ids = tuple(int(found) for found in _ID.findall(text))
    first, *signed = _SIGN.split(f" {_ID.sub(' ', _RATING.sub(' ', text))} ")
    terms = [(1 if sign == "+" else -1, term.strip()) for sign, term in zip(signed[::2], signed[1::2], strict=True)]
    if terms and not all(term for _, term in ([] if post_ids else [(1, first.strip())]) + terms):
        raise ValueError(f"{text!r}: nothing on one side of a sign; write tag - tag + tag")
    if first.strip():
        terms.insert(0, (1, first.strip()))
    return Query(
        terms=tuple(terms),
        ratings=frozenset.intersection(*ratings) if ratings else None,
        post_ids=post_ids,
    )


def _read_ratings(text: str) -> frozenset[str]:
    ratings = [_RATING_NAMES.get(name.lower(), name.lower()) for name in text.split(",")]
    for rating in ratings:
        if rating not in RATINGS:
            raise ValueError(f"rating:{text} in the query: {rating!r} is not one of {', '.join(RATINGS)}")
    return frozenset(ratings)
