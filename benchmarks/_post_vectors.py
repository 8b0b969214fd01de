"""Synthetic post embeddings: a post is the sum of its tag vectors, which are weighted down by frequency.

They come from a mixture, since a real model takes 15 minutes for a million posts. It has 8,000 tags in 400 topics,
whose vectors have the spectrum j^-.5. The number of tags of a post is log-normal (median 27); 60% of them come
from its topic, the others by frequency (r + 6)^-1.1. All posts share one component. Figures of 56,000 generated posts,
with those of the sample's 54,763 posts by the model of `make run` in brackets: mean cosine .19 (.21), effective rank 37
(36); median cosine of a post with its first, tenth and hundredth neighbour .72, .67, .62 (.84, .77, .67), and of
queries of one to four tags .75, .70, .65 (.73, .69, .63).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from booru_embed_core.vectors import unit_vectors

NUM_TAGS: Final = 8_000
NUM_TOPICS: Final = 400
TOPIC_TAGS: Final = 64
TOPIC_SHARE: Final = 0.6
SPECTRUM: Final = -0.5
COMMON: Final = 0.55
"""Length of the component that all posts share, relative to the rest of a post."""
MAX_QUERY_TAGS: Final = 4
_CHUNK: Final = 100_000

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Generated:
    """Generated posts and queries.

    Attributes:
        vectors: of the posts, float16 ``[N, dim]``, of unit length.
        typed: of queries of 1 to 4 tags of a post.
        posts: of whole posts outside `vectors`.
        tags: of the posts, uint16, concatenated; a post may have one twice.
        lengths: the number of tags of each post, int64 ``[N]``.
        typed_tags: the tags of each query of `typed`.
    """

    vectors: NDArray[np.float16]
    typed: Float32
    posts: Float32
    tags: NDArray[np.uint16]
    lengths: NDArray[np.int64]
    typed_tags: list[NDArray[np.int64]]


def generate(num_posts: int, num_queries: int, dim: int = 128, seed: int = 1) -> Generated:
    """`num_posts` vectors, and `num_queries` of each kind of query."""
    generator = np.random.default_rng(seed)
    scale = np.arange(1, dim + 1) ** SPECTRUM
    centres = generator.normal(size=(NUM_TOPICS, dim)) * scale
    tags = centres[generator.integers(0, NUM_TOPICS, NUM_TAGS)] + generator.normal(size=(NUM_TAGS, dim)) * scale
    shares = (np.arange(NUM_TAGS) + 6.0) ** -1.1
    shares /= shares.sum()
    of_topic = np.exp(generator.random((NUM_TOPICS, TOPIC_TAGS)) * np.log(NUM_TAGS)).astype(np.int64) - 1
    tags *= np.log1p(1 / (30 * shares))[:, None]
    common = np.zeros(dim)
    common[0] = COMMON

    def posts(num: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        lengths = np.exp(3.3 + 0.45 * generator.normal(size=num)).clip(3, 150).astype(np.int64)
        topics = np.repeat(generator.integers(0, NUM_TOPICS, num), lengths)
        frequent = np.searchsorted(np.cumsum(shares), generator.random(len(topics))).clip(max=NUM_TAGS - 1)
        from_topic = of_topic[topics, generator.integers(0, TOPIC_TAGS, len(topics))]
        return np.where(generator.random(len(topics)) < TOPIC_SHARE, from_topic, frequent), lengths

    mean = _sums(*posts(20_000), tags).mean(0)

    def embed(drawn: NDArray[np.int64], lengths: NDArray[np.int64]) -> Float32:
        sums = _sums(drawn, lengths, tags) - lengths[:, None] / lengths.mean() * mean
        return unit_vectors(unit_vectors(sums) + common).astype(np.float32)

    vectors = np.empty((num_posts, dim), np.float16)
    post_tags, post_lengths = [], []
    for start in range(0, num_posts, _CHUNK):
        chunk = vectors[start : start + _CHUNK]
        drawn, lengths = posts(len(chunk))
        chunk[:] = embed(drawn, lengths)
        post_tags.append(drawn.astype(np.uint16))
        post_lengths.append(lengths)
    drawn, lengths = posts(num_queries)
    starts = np.cumsum(lengths) - lengths
    typed_lengths = generator.integers(1, MAX_QUERY_TAGS + 1, num_queries).clip(max=lengths)
    typed = [drawn[start : start + n] for start, n in zip(starts.tolist(), typed_lengths.tolist(), strict=True)]
    return Generated(
        vectors=vectors,
        typed=embed(np.concatenate(typed), typed_lengths),
        posts=embed(drawn, lengths),
        tags=np.concatenate(post_tags),
        lengths=np.concatenate(post_lengths),
        typed_tags=typed,
    )


def _sums(drawn: NDArray[np.int64], lengths: NDArray[np.int64], tags: NDArray[np.float64]) -> NDArray[np.float64]:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    matrix = sparse.csr_matrix((np.ones(len(drawn)), drawn, offsets), shape=(len(lengths), NUM_TAGS))
    return np.asarray(matrix @ tags)
