"""Implications in the posts: a → b if nearly every post with tag a also has tag b (witch_hat → hat).

A hidden tag that a visible tag implies is trivial to find, so figures without such tags are more telling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import sparse

from booru_embed_core.evaluation.tasks import HeldOut
from booru_embed_core.tokens.cooccurrence import CaptionMatrix

if TYPE_CHECKING:
    from typing import TypeAlias

    Implications: TypeAlias = "sparse.csr_matrix[np.bool_]"

_MAX_PAIRS: Final = 2**24
"""Pairs of tags that are counted at once: 128 MiB at most."""


def implied_pairs(captions: CaptionMatrix, threshold: float, min_count: int) -> Implications:
    """bool [num_tags, num_tags], true at (a, b) where P(b | a) = n(a and b) / n(a) > `threshold`, for a ≠ b.

    Args:
        captions: training captions, [num_posts, num_tags].
        threshold: in (0, 1].
        min_count: minimal number of posts with a; with fewer, P(b | a) is too noisy.
    """
    num_tags = captions.shape[1]
    counts = captions.getnnz(axis=0)
    often = np.flatnonzero(counts >= min_count)
    posts_of_tag = captions.T.tocsr()
    causes, effects = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    step = max(1, _MAX_PAIRS // num_tags)
    for start in range(0, len(often), step):
        tags = often[start : start + step]
        together = (posts_of_tag[tags] @ captions).tocoo()
        cause = tags[together.row]
        implied = (together.data > threshold * counts[cause]) & (cause != together.col)
        causes.append(cause[implied])
        effects.append(together.col[implied].astype(np.int64))
    pairs = (np.concatenate(causes), np.concatenate(effects))
    return sparse.csr_matrix((np.ones(len(pairs[0]), np.bool_), pairs), shape=(num_tags, num_tags))


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
