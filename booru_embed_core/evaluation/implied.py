"""Implications in the posts: a → b if nearly every post with tag a also has tag b (witch_hat → hat).

A hidden tag that a visible tag implies is trivial to find, so figures without such tags are more telling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from booru_embed_core.evaluation.tasks import HeldOut
from booru_embed_core.tokens.cooccurrence import (
    CaptionMatrix,
    Captions,
    Cooccurrence,
    caption_chunks,
    caption_matrix,
    count_tags,
    take_captions,
)
from booru_embed_core.training.distributed import ONE_RANK, Ranks

if TYPE_CHECKING:
    Implications: TypeAlias = "sparse.csr_matrix[np.bool_]"

_FIRST_POSTS: Final = 8
"""Posts of a rare tag that are looked at first, which drops nearly all pairs."""
_USES_AT_A_TIME: Final = 2**17
_CHUNK_POSTS: Final = 65_536
_KNUTH: Final = np.uint64(0x9E3779B97F4A7C15)


def implied_pairs(
    captions: Captions,
    threshold: float,
    min_count: int,
    pairs: Cooccurrence | None = None,
    ranks: Ranks = ONE_RANK,
) -> Implications:
    """bool [num_tags, num_tags], true at (a, b) where P(b | a) = n(a and b) / n(a) > `threshold`, for a ≠ b.

    Pairs of the most used tags are those of `pairs`. Of another tag a, some posts are looked at first. No pair is
    missed: with s posts looked at, n(a and b) is at most what these have, plus n(a) - s.

    Args:
        captions: training captions, [num_posts, num_tags].
        threshold: in (0, 1].
        min_count: minimal number of posts with a; with fewer, P(b | a) is too noisy.
        pairs: counts of the same captions, if they are known.
        ranks: this one and those that call this with the same captions: they share the counting.
    """
    counts = count_tags(captions) if pairs is None else pairs.counts.astype(np.int64)
    num_tags = len(counts)
    is_counted = np.zeros(num_tags, np.bool_)
    found = [np.empty(0, np.int64)]
    if pairs is not None:
        others = np.delete(counts, pairs.fitted)
        # A more used tag than this implies no tag that is not fitted: there are not enough posts with such a tag.
        is_counted[pairs.fitted] = counts[pairs.fitted] * threshold >= others.max(initial=0)
        found += _of_counted(pairs, is_counted, threshold, min_count)
    wanted = np.where((counts >= min_count) & ~is_counted, _FIRST_POSTS + 4 * (1 - threshold) * counts, 0)
    uses = _looked_at(captions, wanted / np.maximum(1, counts)) if wanted.any() else found[0]
    groups = list(_groups(uses))

    def possible(number: int) -> NDArray[np.int64]:
        causes, effects, together, looked_at = _counted(captions, uses[groups[number]])
        keep = (together + (counts[causes] - looked_at) > threshold * counts[causes]) & (causes != effects)
        of_group: NDArray[np.int64] = causes[keep] * num_tags + effects[keep]
        return of_group

    asked = np.sort(np.concatenate([np.empty(0, np.int64), *ranks.each("possible pairs", len(groups), possible)]))
    found.append(asked[_count_pairs(captions, asked, ranks) > threshold * counts[asked // num_tags]])
    every = np.concatenate(found)
    places = np.divmod(every, num_tags)
    return sparse.csr_matrix((np.ones(len(every), np.bool_), places), shape=(num_tags, num_tags))


def _of_counted(
    pairs: Cooccurrence, is_counted: NDArray[np.bool_], threshold: float, min_count: int
) -> Iterator[NDArray[np.int64]]:
    """Implied pairs a · num_tags + b of the tags a that `is_counted` chooses."""
    for row, a in enumerate(pairs.fitted.tolist()):
        if is_counted[a] and pairs.counts[a] >= min_count:
            effects = pairs.fitted[pairs.together[row] > threshold * pairs.counts[a]]
            yield a * len(pairs.counts) + effects[effects != a]


def _looked_at(captions: Captions, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """About a share `shares` [num_tags] of the uses of each tag, and the first, ``tag << 32 | post``, ascending."""
    chosen, start = [np.empty(0, np.int64)], 0
    is_new = shares > 0
    for chunk in caption_chunks(captions):
        posts = np.repeat(np.arange(start, start + chunk.shape[0]), np.diff(chunk.indptr))
        # A multiplicative hash: posts in a row are spread evenly (Knuth, volume 3, section 6.4).
        chance = (posts.astype(np.uint64) * _KNUTH >> np.uint64(11)) * 2.0**-53
        keep = chance < shares[chunk.indices]
        new = np.flatnonzero(is_new[chunk.indices])
        keep[new[np.unique(chunk.indices[new], return_index=True)[1]]] = True
        is_new[chunk.indices[new]] = False
        chosen.append(chunk.indices[keep].astype(np.int64) << 32 | posts[keep])
        start += chunk.shape[0]
    uses = np.concatenate(chosen)
    uses.sort()
    return uses


_Counts: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]"


def _groups(uses: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of `uses`, each of about `_USES_AT_A_TIME` of them, that cut no tag in two."""
    starts = np.append(np.flatnonzero(np.diff(uses >> 32, prepend=-1)), len(uses))
    first = 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _USES_AT_A_TIME, side="right")) - 1)
        yield slice(int(starts[first]), int(starts[last]))
        first = last


def _counted(captions: Captions, uses: NDArray[np.int64]) -> _Counts:
    """Of pairs that share one of the posts in `uses`: both tags, the posts with both, and those with the first."""
    tags = uses >> 32
    places = np.append(np.flatnonzero(np.diff(tags, prepend=-1)), len(uses))
    posts, at = np.unique(uses & 0xFFFFFFFF, return_inverse=True)
    together = (caption_matrix(at, places, len(posts)) @ take_captions(captions, posts)).tocoo()
    return (
        tags[places[together.row]],
        together.col.astype(np.int64),
        together.data.astype(np.int64),
        np.diff(places)[together.row],
    )


def _count_pairs(captions: Captions, pairs: NDArray[np.int64], ranks: Ranks) -> NDArray[np.int64]:
    """Posts with both tags of each of `pairs` ``a · num_tags + b``, ascending, int64[num_pairs]."""
    num_tags = captions.shape[1]
    together = np.zeros(len(pairs), np.int64)
    starts = np.searchsorted(pairs, np.arange(num_tags + 1, dtype=np.int64) * num_tags)
    num_effects = np.diff(starts)
    num_chunks = -(-captions.shape[0] // _CHUNK_POSTS) if len(pairs) else 0
    for number in ranks.dealt("counted pairs", num_chunks):
        chunk = captions[number * _CHUNK_POSTS : (number + 1) * _CHUNK_POSTS]
        posts = np.repeat(np.arange(chunk.shape[0]), np.diff(chunk.indptr))
        tags = chunk.indices.astype(np.int64)
        asks = num_effects[tags] > 0
        each = num_effects[tags[asks]]
        ends = np.cumsum(each)
        places = np.repeat(starts[tags[asks]] - (ends - each), each) + np.arange(each.sum())
        wanted = np.repeat(posts[asks] * num_tags, each) + pairs[places] % num_tags
        held = posts * num_tags + tags
        at = np.minimum(np.searchsorted(held, wanted), len(held) - 1)
        together += np.bincount(places[held[at] == wanted], minlength=len(pairs))
    every: NDArray[np.int64] = ranks.sum(torch.from_numpy(together)).numpy()
    return every


def without_implied(held_out: HeldOut, implied: Implications) -> HeldOut:
    """`held_out` without the tags that a visible tag implies: they are neither hidden nor ranked.

    Posts that are left without a hidden tag drop out. Visible tags stay the same.
    """
    return without_tags(held_out, held_out.visible @ implied.astype(np.float32))


def without_tags(held_out: HeldOut, tags: CaptionMatrix) -> HeldOut:
    """`held_out` without `tags` ``[n, num_tags]``, of each post those that are above 0; else as `without_implied`."""
    filtered = (held_out.filtered + tags).tocsr()
    filtered.data = np.ones_like(filtered.data)
    filtered.sort_indices()
    hidden = (held_out.hidden - held_out.hidden.multiply(filtered)).tocsr()
    hidden.eliminate_zeros()
    hidden.sort_indices()
    kept = np.flatnonzero(hidden.getnnz(axis=1))
    return HeldOut(
        visible=held_out.visible[kept],
        hidden=hidden[kept],
        filtered=filtered[kept],
        post_index=held_out.post_index[kept],
    )
