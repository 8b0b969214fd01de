"""The posts that have most of some tags, by the cosine of their embeddings among those that have equally many.

Posting lists count exactly how many of the tags a post has, so that no post with all of them is missed.

    asked a b, k 3     a: posts 1 4 7     b: posts 2 4 9     both: 4     one: 1 2 7 9
    →  4, then the two of 1 2 7 9 that are nearest to the query
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.search.filters import Mask
from booru_embed_core.search.posts_table import PostsTable
from booru_embed_core.search.stored_vectors import Float32
from booru_embed_core.search.vector_index import VectorIndex

Rows = NDArray[np.int64]


def ranked(
    table: PostsTable,
    index: VectorIndex,
    vector: Float32,
    k: int,
    asked: Sequence[int],
    first: Sequence[int],
    passing: Mask | None,
) -> tuple[Rows, Float32]:
    """The best `k` rows, int64 ``[n]``, and their cosines, float32 ``[n]``; n is lower only where fewer rows pass.

    Args:
        table: the posts of the index.
        index: of their vectors.
        vector: float32 ``[dim]``, of unit length.
        k: maximal number of rows.
        asked: indices of different tags.
        first: those of `asked` that decide between posts that have equally many of all.
        passing: bool ``[N]``, the rows to choose from; None allows all.
    """
    if not asked:
        return index.search(vector, k, passing)
    if len(asked) == 1:
        holders, num_holders = _posts_with(table, asked[0], passing)
        if num_holders >= k:
            return index.search(vector, k, holders)
    step, num_first = (1, 0) if set(first) == set(asked) else (len(first) + 1, len(first))
    levels = tags_held(table, asked, step)
    if num_first:
        levels += tags_held(table, first)
    levels += 1
    if passing is not None:
        levels *= passing  # level 0 is never chosen
    last, num_above = _last_level(levels, k)
    rarest = min(asked, key=lambda tag: len(table.rows[tag]))
    if last == step * len(asked) + num_first + 1 and not table.is_frequent(rarest):  # those that have all tags
        rows = table.rows[rarest]
        return index.search(vector, k, rows[levels.take(rows) == last])
    on_last, cosines_on_last = index.search(vector, k - num_above, levels == last)
    if not num_above:
        return on_last, cosines_on_last
    above, cosines_above = index.search(vector, num_above, levels > last)
    order = np.argsort(-levels[above].astype(np.int64), kind="stable")  # the search puts the nearest first
    return np.concatenate([above[order], on_last]), np.concatenate([cosines_above[order], cosines_on_last])


def _posts_with(table: PostsTable, tag: int, passing: Mask | None) -> tuple[Mask | Rows, int]:
    """The rows with `tag` that pass, as rows or as a mask, whichever is at hand; and their number."""
    if not table.is_frequent(tag):
        rows = table.rows[tag]
        rows = rows if passing is None else rows[passing.take(rows)]
        return rows, len(rows)
    chosen = table.has(tag)
    if passing is not None:
        chosen &= passing
    return chosen, int(np.count_nonzero(chosen))


def _last_level(levels: NDArray[Any], k: int) -> tuple[int, int]:
    """The level above 0 on which the best `k` rows end, and the number of rows above it.

    Counting one level of 5.8 million rows takes a millisecond, and all of them at once 45. The highest are the few.
    """
    level, num_above = int(levels.max(initial=1)), 0
    while level > 1 and num_above + (num_on := int(np.count_nonzero(levels == level))) < k:
        level, num_above = level - 1, num_above + num_on
    return level, num_above


def tags_held(table: PostsTable, tags: Sequence[int], step: int = 1) -> NDArray[Any]:
    """`step` times the number of `tags` that each post has, ``[N]``; its type has room for two levels more."""
    largest = (len(tags) + 1) * step + len(tags) + 1
    held = np.zeros(table.num_posts, np.min_scalar_type(largest))
    for tag in tags:
        if table.is_frequent(tag):
            marks = table.has(tag).view(np.uint8)
            held += marks if step == 1 else np.multiply(marks, held.dtype.type(step))
        else:
            np.add.at(held, table.rows[tag], held.dtype.type(step))  # half the time of adding to `held[rows]`
    return held
