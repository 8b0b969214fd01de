"""The query language of post search: captions to add and to subtract, ratings, ids of posts.

``hatsune_miku - twintails + short_hair`` is three captions with signs. A sign stands between spaces, since tags may
contain both signs. ``rating:g`` (or ``rating:g,s``, ``rating:general``) and ``id:123`` may stand anywhere, as on
Danbooru.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from booru_embed_core.schema import RATING_NAMES, RATINGS

_SIGN: Final = re.compile(r"\s+([+-])(?=\s)")
_RATING: Final = re.compile(r"(?<!\S)rating:(\S*?),?(?!\S)", re.IGNORECASE)
_ID: Final = re.compile(r"(?<!\S)id:(\d{1,18}),?(?!\S)", re.IGNORECASE)


@dataclass(frozen=True)
class Query:
    """A parsed query.

    Attributes:
        terms: captions with their signs, 1 or -1; empty for a query of filters alone.
        ratings: letters of the accepted ratings; None accepts all.
        post_ids: posts whose embeddings are added to the terms.
        text: the query as it was typed, for messages.
    """

    terms: tuple[tuple[int, str], ...]
    ratings: frozenset[str] | None = None
    post_ids: tuple[int, ...] = ()
    text: str = field(default="", compare=False)


def as_query(query: Query | str) -> Query:
    """`query`, parsed if it is a string; raises as `parse_query`."""
    return parse_query(query) if isinstance(query, str) else query


def parse_query(text: str) -> Query:
    """The query that `text` spells.

    Raises:
        ValueError: an unknown rating, or a sign with nothing on one side.
    """
    ratings = [_parse_ratings(found) for found in _RATING.findall(text)]
    post_ids = tuple(int(found) for found in _ID.findall(text))
    first, *signed = _SIGN.split(f" {_ID.sub(' ', _RATING.sub(' ', text))} ")
    terms = [(1 if sign == "+" else -1, term.strip()) for sign, term in zip(signed[::2], signed[1::2], strict=True)]
    if terms and not all(term for _, term in ([] if post_ids else [(1, first.strip())]) + terms):
        raise ValueError(f"{text!r}: nothing on one side of a sign; write tag - tag + tag")
    if first.strip():
        terms.insert(0, (1, first.strip()))
    return Query(tuple(terms), frozenset.intersection(*ratings) if ratings else None, post_ids, text)


def _parse_ratings(text: str) -> frozenset[str]:
    names = text.lower().split(",")
    for name in names:
        if name not in RATING_NAMES:
            raise ValueError(f"rating:{text} in the query: {name!r} is not one of {', '.join(RATINGS)}")
    return frozenset(RATING_NAMES[name] for name in names)
