"""A map of tags on a plane, where similar embeddings lie close together. For display only."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_MAPPED_TAGS: Final = 30_000
"""The most used tags are mapped: t-SNE takes 11 seconds for 3,000 on one core, and slightly more than linear time."""
MAX_DRAWN_TAGS: Final = 3000
_MIN_FOR_TSNE: Final = 10


def map_tags(vectors: NDArray[np.float32], seed: int = 7) -> NDArray[np.float64]:
    """Map positions (float64 `[n, 2]`) of `vectors` (float32 `[n, d]`, unit length).

    They are those of t-SNE (van der Maaten & Hinton 2008); fewer than ten vectors are projected on their two principal
    components.
    """
    if len(vectors) < _MIN_FOR_TSNE:
        return _principal_components(vectors)
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    tsne = TSNE(init="pca", perplexity=min(30.0, (len(vectors) - 1) / 3), random_state=seed)
    # On a busy machine two threads mostly wait for each other: 43 s instead of 15 s for 3,000 tags.
    with threadpool_limits(1):
        return np.asarray(tsne.fit_transform(vectors), dtype=np.float64)


def most_used(counts: NDArray[np.int64], limit: int = MAX_MAPPED_TAGS) -> NDArray[np.int64]:
    """The indices of the `limit` largest of `counts`, largest first."""
    return np.argsort(-counts, kind="stable")[:limit].astype(np.int64)


def _principal_components(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    positions = centred @ axes.T
    return np.pad(positions, ((0, 0), (0, 2 - positions.shape[1])))
