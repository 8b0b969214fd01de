"""A query as it is read: captions that are added and subtracted, filters, an order. ``parser`` reads it from text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from booru_embed_core.schema import RATINGS
from booru_embed_core.search.filters import Filter, HasAny, Not, Order, RatingIs
from booru_embed_core.tags.tokenizer import Encoded

MAX_TERMS: Final = 200
"""Captions and posts that are added and subtracted: each takes a pass through the network, or reads a part."""


@dataclass(frozen=True)
class Term:
    """What one sign adds to a query or subtracts from it.

    Attributes:
        sign: 1 or -1.
        captions: its plain tags, as they are encoded; stretches between other words.
        post_ids: posts whose embeddings it adds or subtracts.
    """

    sign: int
    captions: tuple[Encoded, ...] = ()
    post_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Query:
    """A query, read for one vocabulary.

    Attributes:
        terms: what is added and subtracted; empty for a query of filters alone.
        filters: conditions that each post must fulfil.
        order: the sequence that ``order:`` asks for; None ranks by tags and similarity.
        notes: what was read differently from its spelling, one line each.
        text: the query as it was typed, for messages.
        vocab_hash: of the vocabulary whose tags it names.
    """

    terms: tuple[Term, ...] = ()
    filters: tuple[Filter, ...] = ()
    order: Order | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    text: str = field(default="", compare=False)
    vocab_hash: str = field(default="", compare=False)

    @property
    def num_parts(self) -> int:
        """The captions and posts that are added and subtracted."""
        return sum(bool(term.captions) + len(term.post_ids) for term in self.terms)

    @property
    def post_ids(self) -> tuple[int, ...]:
        """The posts whose embeddings are added or subtracted."""
        return tuple(post_id for term in self.terms for post_id in term.post_ids)

    def token_ids(self, sign: int | None = None) -> tuple[int, ...]:
        """The token ids of the tags in captions of `sign`, or of both, each once."""
        return tuple(dict.fromkeys(token_id for caption in self.captions(sign) for token_id in caption.token_ids))

    def first_token_ids(self) -> tuple[int, ...]:
        """The token ids of the tags before the first sign."""
        first = [term for term in self.terms[:1] if term.sign > 0]
        return tuple(dict.fromkeys(token_id for term in first for one in term.captions for token_id in one.token_ids))

    def unknown(self, sign: int | None = None) -> tuple[str, ...]:
        """The tags in captions of `sign`, or of both, that the vocabulary does not hold, each once."""
        return tuple(dict.fromkeys(word for caption in self.captions(sign) for word in caption.unknown))

    def captions(self, sign: int | None = None) -> list[Encoded]:
        """The captions of all terms of `sign`, or of both."""
        return [caption for term in self.terms if sign in (None, term.sign) for caption in term.captions]


def contradictions(terms: Iterable[Term], filters: Iterable[Filter], num_special: int) -> list[int]:
    """The token ids of plain tags that a filter excludes; `num_special` is the id of the first tag."""
    barred = {
        tag for one in filters if isinstance(one, Not) and isinstance(one.inner, HasAny) for tag in one.inner.tags
    }
    asked = (token_id for term in terms if term.sign > 0 for one in term.captions for token_id in one.token_ids)
    return [token_id for token_id in dict.fromkeys(asked) if token_id - num_special in barred]


def rating_filters(caption: Encoded) -> list[Filter]:
    """The filter of the ratings that a caption names, such as ``(rating:g)``."""
    ratings = frozenset(map(RATINGS.index, caption.ratings))
    return [RatingIs(ratings)] if ratings else []
