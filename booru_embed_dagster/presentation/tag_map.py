"""Where tags lie on a plane, so that those with like embeddings lie together: for the eye only."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_MAPPED_TAGS: Final = 30_000
"""The most used have a place: t-SNE takes 11 seconds for 3,000 on one core, and grows a little faster than they do."""
MAX_DRAWN_TAGS: Final = 3000
_MIN_FOR_TSNE: Final = 10


def map_tags(vectors: NDArray[np.float32], seed: int = 7) -> NDArray[np.float64]:
    """Places of `vectors` (float32 `[n, d]`, unit length) as float64 `[n, 2]`: t-SNE (van der Maaten & Hinton 2008).

    Fewer than ten vectors are laid along their two principal components.
    """
    if len(vectors) < _MIN_FOR_TSNE:
        return _principal_components(vectors)
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    tsne = TSNE(init="pca", perplexity=min(30.0, (len(vectors) - 1) / 3), random_state=seed)
    # On a busy machine two threads wait for each other most of the time: 43 s instead of 15 s for 3,000 tags.
    with threadpool_limits(1):
        return np.asarray(tsne.fit_transform(vectors), dtype=np.float64)


def most_used(counts: NDArray[np.int64], limit: int = MAX_MAPPED_TAGS) -> NDArray[np.int64]:
    """The places of the `limit` largest of `counts`, the largest first."""
    return np.argsort(-counts, kind="stable")[:limit].astype(np.int64)


def _principal_components(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    places = centred @ axes.T
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
