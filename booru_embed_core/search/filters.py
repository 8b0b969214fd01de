"""Conditions on posts, each a mask over the rows of a posts table: exact, and without a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.search.posts_table import PostsTable

Mask = NDArray[np.bool_]
MAX_MASKS = 1000
"""Conditions of a search, each of which goes through all posts: of millions, in about a millisecond."""


class Filter(Protocol):
    """A condition that a post fulfils or not."""

    def mask(self, table: PostsTable) -> Mask:
        """The rows that fulfil it, bool ``[N]``, in an array that the caller may change."""

    def wanted(self) -> tuple[int, ...]:
        """The tag indices that fulfil it or help to; none of those that it excludes."""


@dataclass(frozen=True)
class HasAny:
    """The post has at least one of `tags`, which are tag indices."""

    tags: tuple[int, ...]

    def mask(self, table: PostsTable) -> Mask:
        """As `Filter.mask`."""
        if not self.tags:
            return np.zeros(table.num_posts, np.bool_)
        found = table.has(self.tags[0])
        for tag in self.tags[1:]:
            if table.is_frequent(tag):
                found |= table.has(tag)
            else:
                found[table.rows[tag]] = True
        return found

    def wanted(self) -> tuple[int, ...]:
        """As `Filter.wanted`."""
        return self.tags


@dataclass(frozen=True)
class Not:
    """The post does not fulfil `inner`."""

    inner: Filter

    def mask(self, table: PostsTable) -> Mask:
        """As `Filter.mask`."""
        found = self.inner.mask(table)
        np.logical_not(found, out=found)
        return found

    def wanted(self) -> tuple[int, ...]:
        """As `Filter.wanted`."""
        return ()


@dataclass(frozen=True)
class Every:
    """The post fulfils all of `inner`, of which there may be none."""

    inner: tuple[Filter, ...]

    def mask(self, table: PostsTable) -> Mask:
        """As `Filter.mask`."""
        if not self.inner:
            return np.ones(table.num_posts, np.bool_)
        found = self.inner[0].mask(table)
        for one in self.inner[1:]:
            found &= one.mask(table)
        return found

    def wanted(self) -> tuple[int, ...]:
        """As `Filter.wanted`."""
        return _wanted_of(self.inner)


@dataclass(frozen=True)
class Either:
    """The post fulfils at least one of `inner`."""

    inner: tuple[Filter, ...]

    def mask(self, table: PostsTable) -> Mask:
        """As `Filter.mask`."""
        found = np.zeros(table.num_posts, np.bool_)
        for one in self.inner:
            found |= one.mask(table)
        return found

    def wanted(self) -> tuple[int, ...]:
        """As `Filter.wanted`."""
        return _wanted_of(self.inner)


@dataclass(frozen=True)
class RatingIs:
    """The post has one of `ratings`, indices into `RATINGS`."""

    ratings: frozenset[int]

    def mask(self, table: PostsTable) -> Mask:
        """As `Filter.mask`."""
        if not self.ratings:
            return np.zeros(table.num_posts, np.bool_)
        first, *more = sorted(self.ratings)
        found: Mask = table.rating == first
        for rating in more:  # a tenth of the time of `np.isin`
            found |= table.rating == rating
        return found

    def wanted(self) -> tuple[int, ...]:
        """As `Filter.wanted`."""
        return ()


@dataclass(frozen=True)
class Within:
    """The post's `column` lies in one of `ranges`, pairs of a lowest and a highest value; both count as inside."""

    column: Literal["score", "post_id"]
    ranges: tuple[tuple[int, int], ...]

    def single(self) -> int | None:
        """The only value inside, or None."""
        (lowest, highest), *more = self.ranges
        return lowest if lowest == highest and not more else None

    def mask(self, table: PostsTable) -> Mask:
        """As `Filter.mask`."""
        values = table.score if self.column == "score" else table.post_id
        found = np.zeros(table.num_posts, np.bool_)
        for lowest, highest in self.ranges:
            found |= (values >= lowest) & (values <= highest)
        return found

    def wanted(self) -> tuple[int, ...]:
        """As `Filter.wanted`."""
        return ()


@dataclass(frozen=True)
class Order:
    """A sequence of posts: by `column`, descending or ascending; of posts with one score, by id."""

    column: Literal["score", "post_id"]
    descending: bool

    def first(self, table: PostsTable, rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
        """The first `k` of `rows`, in order."""
        sign = -1 if self.descending else 1
        values = (table.score if self.column == "score" else table.post_id)[rows].astype(np.int64) * sign
        if k < len(rows):
            last = np.partition(values, k - 1)[k - 1]
            rows, values = rows[values <= last], values[values <= last]
        return rows[np.lexsort((table.post_id[rows] * sign, values))[:k]]


def negated(one: Filter) -> Filter:
    """What exactly the posts fulfil that do not fulfil `one`."""
    return one.inner if isinstance(one, Not) else Not(one)


def either(filters: Sequence[Filter]) -> Filter:
    """One filter for several alternatives; tags alone need a single mask."""
    if len(filters) == 1:
        return filters[0]
    if all(isinstance(one, HasAny) for one in filters):
        return HasAny(tuple(dict.fromkeys(tag for one in filters for tag in one.wanted())))
    return Either(tuple(filters))


def num_masks(filters: Iterable[Filter]) -> int:
    """How often `filters` go through all posts: once for each tag, range and the like."""
    total, left = 0, list(filters)
    while left:
        one = left.pop()
        if isinstance(one, Every | Either):
            left += one.inner
        elif isinstance(one, Not):
            left.append(one.inner)
        else:
            total += len(one.ranges) if isinstance(one, Within) else 1
    return total


def passing(filters: Sequence[Filter], table: PostsTable) -> Mask | None:
    """The rows that fulfil all `filters`, bool ``[N]``; None without any filter."""
    return Every(tuple(filters)).mask(table) if filters else None


def _wanted_of(filters: Sequence[Filter]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(tag for one in filters for tag in one.wanted()))
