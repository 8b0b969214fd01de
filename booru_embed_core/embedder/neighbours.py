"""Tags with similar embeddings: cosines after the mean is subtracted.

The embeddings of single tags share one direction, and tags that lie along it are near to everything: hubs (Radovanović,
Nanopoulos, Ivanović 2010, "Hubs in Space"). Subtracting the mean removes it (Suzuki et al. 2013, "Centering Similarity
Measures to Reduce Hubs"). ``benchmarks/similar.py`` compares this with other remedies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from booru_embed_core.embedder.auto_network import AutoNetwork
from booru_embed_core.embedder.network import Network, TagSets
from booru_embed_core.vectors import unit_vectors

Float32 = NDArray[np.float32]
Vectors = NDArray[np.float32] | NDArray[np.float16]

_AT_ONCE: Final = 4096
"""Tags that are embedded together: the network keeps tables of all that are distinct."""
_BLOCK: Final = 16_384
"""Vectors that are taken to float32 at once."""
_LEAST_SQUARE: Final = np.float32(1e-8)
"""Squared distance from the mean below which a tag's direction is rounding noise."""


@dataclass(frozen=True, eq=False)
class Centred:
    """The tags' embeddings seen from their mean.

    Attributes:
        vectors: float32 or float16 ``[num_tags, E]``, as they are.
        mean: float32 ``[E]``, their mean by use: a tag counts as often as posts have it.
        lengths: float32 ``[num_tags]``, the distance of each from the mean.
    """

    vectors: Vectors
    mean: Float32
    lengths: Float32

    @classmethod
    def of(cls, vectors: Vectors, counts: NDArray[np.integer]) -> Self:
        """The centred `vectors`, float ``[num_tags, E]``, of tags that `counts` posts have, int ``[num_tags]``."""
        weights = (counts / max(1, int(counts.sum()))).astype(np.float32)
        mean = np.zeros(vectors.shape[1], np.float32)
        for rows, block in _blocks(vectors):
            mean += weights[rows] @ block
        squares = np.empty(len(vectors), np.float32)
        for rows, block in _blocks(vectors):
            # |v - m|² without an array of all differences, which would be as large as `vectors`.
            squares[rows] = np.einsum("ij,ij->i", block, block) - 2 * (block @ mean) + mean @ mean
        return cls(vectors, mean, np.sqrt(np.maximum(squares, _LEAST_SQUARE)))

    def cosines(self, vector: Float32) -> Float32:
        """The cosine of each tag with `vector`, float32 ``[E]`` seen from the mean already; float32 ``[num_tags]``."""
        length = max(np.linalg.norm(vector), _LEAST_SQUARE**0.5)
        products = np.empty(len(self.vectors), np.float32)
        for rows, block in _blocks(self.vectors):
            products[rows] = block @ vector
        return np.clip((products - self.mean @ vector) / (self.lengths * length), -1, 1)


def _blocks(vectors: Vectors) -> Iterator[tuple[slice, Float32]]:
    """Some rows of `vectors` after others, in float32: half precision would take a copy of all, or no BLAS."""
    for start in range(0, len(vectors), _BLOCK):
        rows = slice(start, start + _BLOCK)
        yield rows, vectors[rows].astype(np.float32, copy=False)


def embeddings_of_tags(network: Network, tags: NDArray[np.int64], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """The embedding of each of `tags` (int64 ``[n]``) as a caption of its own, `dtype` ``[n, E]``, unit length."""
    if isinstance(network, AutoNetwork):
        network.expect(2 * len(tags))
    found: NDArray[Any] | None = None
    for start in range(0, max(1, len(tags)), _AT_ONCE):
        part = tags[start : start + _AT_ONCE]
        vectors = unit_vectors(network.embeddings(TagSets.without_metadata(part, np.ones_like(part))))
        if len(part) == len(tags):
            return vectors.astype(dtype, copy=False)
        if found is None:
            found = np.empty((len(tags), vectors.shape[1]), dtype=dtype)  # once: all tags of Danbooru take 97 MB
        found[start : start + len(part)] = vectors
    assert found is not None
    return found
