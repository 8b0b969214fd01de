"""Groups of posts with nearly the same embedding: reposts, variants, or posts with the same few tags."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.schema import RATINGS
from booru_embed_core.search.folder import read_vectors
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.search.vector_index import Float32
from booru_embed_core.vectors import unit_vectors

MAX_EXACT_POSTS: Final = 300_000
"""Up to this many posts all pairs are compared: 5 minutes on one core, four times that for twice as many posts."""
_NPROBE: Final = 16
"""Lists that a post is compared with beyond that; on the sample they held every pair above .95."""
_BLOCK_NUMBERS: Final = 1 << 25
_INDEXED_ROWS: Final = 4096
_ROUNDING: Final = 2e-3
"""Maximal error of a cosine of the index, from float16; the cosine of each found pair is computed from the vectors."""

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def near_duplicates(search: PostSearch, above: float, log: Callable[[str], None] = print) -> pa.Table:
    """One row per post with a near duplicate: group, num_posts, post_id, rating, score, similarity.

    Posts are in one group if pairs with a cosine of at least `above` link them. `similarity` is a post's highest cosine
    with another post of its group. Groups are numbered from 0 in the order of their first posts. Up to
    `MAX_EXACT_POSTS` posts all pairs are compared; beyond that, each post with those in the nearest lists of the index.
    Posts without a known tag are left out, since they all have the same embedding.

    Raises:
        ValueError: `above` is not between 0 and 1.
    """
    if not 0 < above <= 1:
        raise ValueError(f"above {above} is not between 0 and 1; give a cosine, such as 0.99")
    rows = np.flatnonzero(np.diff(search.table.tags.offsets))
    vectors = unit_vectors(read_vectors(search.folder)[rows].astype(np.float32))
    groups, best = np.arange(len(rows)), np.full(len(rows), -1.0, np.float32)
    blocks = (
        _exact_pairs(vectors, above) if len(rows) <= MAX_EXACT_POSTS else _indexed_pairs(search, rows, vectors, above)
    )
    started = shown = time.monotonic()
    for done, (one, other) in blocks:
        cosines = np.einsum("ij,ij->i", vectors[one], vectors[other])
        kept = cosines >= above - 1e-6  # rounding may put two equal vectors just below 1
        one, other, cosines = one[kept], other[kept], cosines[kept]
        _merge(groups, one, other)
        np.maximum.at(best, one, cosines)
        np.maximum.at(best, other, cosines)
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            log(f"{done:.0%} of the pairs compared, {(shown - started) * (1 - done) / done:,.0f} s to go")
    return _table(search, rows, groups, best)


def _exact_pairs(vectors: Float32, above: float) -> Iterator[tuple[float, Pairs]]:
    """The share of all pairs compared so far, and pairs, lower row first, that may be near."""
    num = len(vectors)
    step = max(1, _BLOCK_NUMBERS // max(1, num))
    for start in range(0, num, step):
        cosines = vectors[start : start + step] @ vectors[start:].T
        one, other = np.nonzero(cosines >= above - _ROUNDING)
        is_pair = one < other
        left = 1 - min(num, start + step) / num
        yield 1 - left**2, (one[is_pair] + start, other[is_pair] + start)


def _indexed_pairs(
    search: PostSearch, rows: NDArray[np.int64], vectors: Float32, above: float
) -> Iterator[tuple[float, Pairs]]:
    """As `_exact_pairs`, by the index; the rows of a pair come in any order."""
    index_of = np.full(search.num_posts, -1)
    index_of[rows] = np.arange(len(rows))
    for start in range(0, len(rows), _INDEXED_ROWS):
        queries = vectors[start : start + _INDEXED_ROWS]
        one, found = search.index.within(queries, above - _ROUNDING, _NPROBE)
        one, other = one + start, index_of[found]
        is_pair = (other >= 0) & (one != other)  # both orders: the two rows may probe different lists
        yield (start + len(queries)) / len(rows), (one[is_pair], other[is_pair])


def _merge(groups: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Joins the groups of each pair in place; a group's number is its lowest member."""
    while True:
        numbers = groups[one], groups[other]
        if np.array_equal(*numbers):
            return
        np.minimum.at(groups, np.maximum(*numbers), np.minimum(*numbers))
        while not np.array_equal(shorter := groups[groups], groups):
            groups[:] = shorter


def _table(
    search: PostSearch, rows: NDArray[np.int64], groups: NDArray[np.int64], best: NDArray[np.float32]
) -> pa.Table:
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(sizes[numbers] > 1)
    shared = shared[np.lexsort((shared, groups[shared]))]
    table, posts = search.table, rows[shared]
    return pa.table(
        {
            "group": pa.array(np.unique(groups[shared], return_inverse=True)[1].astype(np.int64)),
            "num_posts": pa.array(sizes[numbers[shared]].astype(np.int64)),
            "post_id": pa.array(table.post_id[posts]),
            "rating": pa.array(np.array(RATINGS)[table.rating[posts]]),
            "score": pa.array(table.score[posts]),
            "similarity": pa.array(np.minimum(best[shared], 1)),
        }
    )
