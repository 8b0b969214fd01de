"""A map of tags on a plane, where similar embeddings lie close together. For display only."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MAX_MAPPED_TAGS: Final = 30_000
"""The most used tags are mapped."""
MAX_DRAWN_TAGS: Final = 3000
_MIN_FOR_TSNE: Final = 10
_FIRST_TAGS: Final = 8000
"""Tags whose map is made first, if there are more: t-SNE takes 40 CPU seconds for them, and all 30,000 tags
140; from scratch they would take 533."""
_NEIGHBOURS: Final = 5
_MORE_ITERATIONS: Final = 400
_COARSE: Final = 0.8
"""Barnes-Hut's angle beyond `_FIRST_TAGS`: two thirds of the time of .5, with the same neighbours."""
_PERPLEXITY: Final = 30.0


def map_tags(vectors: NDArray[np.float32], seed: int = 7) -> NDArray[np.float64]:
    """Map positions (float64 `[n, 2]`) of `vectors` (float32 `[n, d]`, unit length).

    They are those of t-SNE (van der Maaten & Hinton 2008); fewer than ten vectors are projected on their two principal
    components. Of many vectors, the first are mapped, each of the others starts at its nearest ones, and t-SNE goes on
    with all (Kobak & Berens 2019, "The art of using t-SNE for single-cell transcriptomics").
    """
    if len(vectors) < _MIN_FOR_TSNE:
        return _principal_components(vectors)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # On a busy machine two threads mostly wait for each other: 43 s instead of 15 s for 3,000 tags.
    with threadpool_limits(1):
        if len(vectors) <= _FIRST_TAGS:
            return _tsne(vectors, seed)
        first = _tsne(vectors[:_FIRST_TAGS], seed, angle=_COARSE)
        start = np.concatenate([first, _beside(vectors, first)]).astype(np.float32)
        return _tsne(vectors, seed, angle=_COARSE, init=start, max_iter=_MORE_ITERATIONS, early_exaggeration=1.0)


def _tsne(vectors: NDArray[np.float32], seed: int, **settings: Any) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    tsne = TSNE(**({"init": "pca", "perplexity": perplexity, "random_state": seed} | settings))
    return np.asarray(tsne.fit_transform(vectors), dtype=np.float64)


def _beside(vectors: NDArray[np.float32], first: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the vectors behind those of the map `first` start: at the mean position of the nearest of these."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors[: len(first)])
    nearest = index.search(vectors[len(first) :], _NEIGHBOURS)[1]
    # Points at one position would never part.
    apart = np.random.default_rng(0).normal(scale=0.01 * first.std(), size=(len(nearest), 2))
    return np.asarray(first[nearest].mean(axis=1) + apart)


def most_used(counts: NDArray[np.int64], limit: int = MAX_MAPPED_TAGS) -> NDArray[np.int64]:
    """The indices of the `limit` largest of `counts`, largest first."""
    return np.argsort(-counts, kind="stable")[:limit].astype(np.int64)


def _principal_components(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    positions = centred @ axes.T
    return np.pad(positions, ((0, 0), (0, 2 - positions.shape[1])))
