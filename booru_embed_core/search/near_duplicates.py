"""Posts whose embeddings are nearly the same, in groups: the same picture again, its variants, or the same few tags."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.schema import RATINGS
from booru_embed_core.search.post_search import PostSearch, read_vectors
from booru_embed_core.search.vector_index import Float32

MOST_EXACT: Final = 300_000
"""Posts of which all pairs are compared: 5 minutes on a core, four times as long for twice as many."""
_PROBES: Final = 16
"""Lists that a post is compared with beyond that; on the sample they held every pair above .95 that there was."""
_BLOCK_NUMBERS: Final = 1 << 25
_INDEXED_ROWS: Final = 4096
_ROUNDING: Final = 2e-3
"""What float16 may take from a cosine in the index; pairs are measured again."""

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def near_duplicates(search: PostSearch, above: float, log: Callable[[str], None] = print) -> pa.Table:
    """A row for each post that has a near duplicate: group, num_posts, post_id, rating, score, similarity.

    Two posts whose cosine is at least `above` are in one group, and so are those that such pairs link; `similarity` is
    the highest cosine to another post of the group. Groups are numbered from 0 by their first post. Up to `MOST_EXACT`
    posts all pairs are compared; beyond that, each post with those in the nearest lists of the index. Posts without any
    known tag are left out: their embeddings are the same, and say nothing.

    Raises:
        ValueError: `above` is not between 0 and 1.
    """
    if not 0 < above <= 1:
        raise ValueError(f"above {above} is not between 0 and 1; give a cosine, such as 0.99")
    rows = np.flatnonzero(np.diff(search.table.tags.offsets))
    vectors = read_vectors(search.folder)[rows].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups, best = np.arange(len(rows)), np.full(len(rows), -1.0, np.float32)
    blocks = _exact_pairs(vectors, above) if len(rows) <= MOST_EXACT else _indexed_pairs(search, rows, vectors, above)
    started = shown = time.monotonic()
    for done, (one, other) in blocks:
        cosines = np.einsum("ij,ij->i", vectors[one], vectors[other])
        kept = cosines >= above - 1e-6  # of the same vector twice it may be just below 1
        one, other, cosines = one[kept], other[kept], cosines[kept]
        _merge(groups, one, other)
        np.maximum.at(best, one, cosines)
        np.maximum.at(best, other, cosines)
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            log(f"{done:.0%} of the pairs compared, {(shown - started) * (1 - done) / done:,.0f} s to go")
    return _table(search, rows, groups, best)


def _exact_pairs(vectors: Float32, above: float) -> Iterator[tuple[float, Pairs]]:
    """The share of all pairs that is compared, and pairs (the first one lower) that may be near."""
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
    place = np.full(search.num_posts, -1)
    place[rows] = np.arange(len(rows))
    for start in range(0, len(rows), _INDEXED_ROWS):
        queries = vectors[start : start + _INDEXED_ROWS]
        one, found = search.index.within(queries, above - _ROUNDING, _PROBES)
        one, other = one + start, place[found]
        is_pair = (other >= 0) & (one != other)  # the other way round, the lists of a query may be others
        yield (start + len(queries)) / len(rows), (one[is_pair], other[is_pair])


def _merge(groups: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Joins the groups of each pair; a group is named by its lowest member."""
    while True:
        names = groups[one], groups[other]
        if np.array_equal(*names):
            return
        np.minimum.at(groups, np.maximum(*names), np.minimum(*names))
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
