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
from booru_embed_core.search.stored_vectors import Float32
from booru_embed_core.vectors import unit_vectors

MAX_EXACT_POSTS: Final = 300_000
"""Up to this many posts all pairs are compared: 5 minutes on one core, four times that for twice as many posts."""
_NPROBE: Final = 16
"""Lists that a post is compared with beyond that; on the sample they held every pair above .95."""
_BLOCK_NUMBERS: Final = 1 << 25
_MAX_PAIRS: Final = 1 << 18
"""Pairs looked at at once, so that memory does not grow with their number: all pairs of 5,000 posts may be near."""
_INDEXED_ROWS: Final = 4096
_FIRST_INDEXED_ROWS: Final = 64
_ROUNDING: Final = 1e-5
"""Maximal error of a cosine out of a matrix product, which depends on the block; pairs are computed one by one."""
_INDEX_ROUNDING: Final = 2e-3
"""Maximal error of a cosine of the index, from float16; the cosine of each found pair is computed from the vectors."""

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def near_duplicates(search: PostSearch, above: float, log: Callable[[str], None] = print) -> pa.Table:
    """One row per post with a near duplicate: group, num_posts, post_id, rating, score, similarity.

    Posts are in one group if pairs with a cosine of at least `above` link them. `similarity` is a post's highest cosine
    with another post of its group. Groups are numbered from 0 in the order of their first posts. Up to
    `MAX_EXACT_POSTS` posts all pairs are compared; beyond that, each post with those in the nearest lists of the index.
    Posts without a known tag are left out, since they all have the same embedding. Memory is that of the vectors and of
    one block of pairs, however many pairs there are.

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
    for done, (one, other), most in blocks:
        # In a large group, most pairs link nothing new and are not the closest one of either post.
        matters = (groups[one] != groups[other]) | (most > np.minimum(best[one], best[other]))
        one, other = one[matters], other[matters]
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


def _exact_pairs(vectors: Float32, above: float) -> Iterator[tuple[float, Pairs, Float32]]:
    """The share of all pairs compared so far, pairs that may be near, lower row first, and the most their cosines are.

    These are at most `_MAX_PAIRS` pairs.
    """
    num = len(vectors)
    step = max(1, _BLOCK_NUMBERS // max(1, num))
    for start in range(0, num, step):
        cosines = vectors[start : start + step] @ vectors[start:].T
        is_near = np.triu(cosines >= above - _ROUNDING, 1)
        left = 1 - min(num, start + step) / num
        for first, last in _runs(np.count_nonzero(is_near, axis=1)):
            one, other = np.nonzero(is_near[first:last])
            for piece in range(0, len(one), _MAX_PAIRS):  # a row may hold more
                of_row, column = (rows[piece : piece + _MAX_PAIRS] for rows in (one + first, other))
                yield 1 - left**2, (of_row + start, column + start), cosines[of_row, column] + _ROUNDING


def _runs(counts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First row and end of each run of rows that have at most `_MAX_PAIRS` pairs, or are one row; none without pairs.

    Args:
        counts: int64 ``[n]``, the number of pairs of each row.
    """
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = ends[first] - counts[first]
        last = max(first + 1, int(np.searchsorted(ends, before + _MAX_PAIRS, side="right")))
        if ends[last - 1] > before:
            yield first, last
        first = last


def _indexed_pairs(
    search: PostSearch, rows: NDArray[np.int64], vectors: Float32, above: float
) -> Iterator[tuple[float, Pairs, Float32]]:
    """As `_exact_pairs`, by the index, which gives no cosines; the rows of a pair come in any order."""
    index_of = np.full(search.num_posts, -1)
    index_of[rows] = np.arange(len(rows))
    start, step = 0, min(_FIRST_INDEXED_ROWS, _INDEXED_ROWS)
    while start < len(rows):
        queries = vectors[start : start + step]
        one, found = search.index.within(queries, above - _INDEX_ROUNDING, _NPROBE)
        one, other = one + start, index_of[found]
        is_pair = (other >= 0) & (one != other)  # both orders: the two rows may probe different lists
        one, other = one[is_pair], other[is_pair]
        start += len(queries)
        for piece in range(0, len(one), _MAX_PAIRS):
            chosen = slice(piece, piece + _MAX_PAIRS)
            yield start / len(rows), (one[chosen], other[chosen]), np.full(1, 2, np.float32)
        # As many rows next as have four pieces of pairs, by the mean of these; at most twice as many.
        step = max(1, min(2 * step, _INDEXED_ROWS, 4 * _MAX_PAIRS * len(queries) // max(1, len(one))))


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
