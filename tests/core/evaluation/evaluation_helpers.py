"""Small captions, packed files without a file, and scorers for the tests of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from booru_embed_core.evaluation.tasks import HeldOut, hold_out
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, caption_matrix

NUM_TAGS = 9
CAPTIONS = st.lists(st.lists(st.integers(0, NUM_TAGS - 1), max_size=NUM_TAGS), min_size=1, max_size=8)
SEEDS = st.integers(0, 2**63 - 1)


def captions_of(rows: Sequence[Sequence[int]], num_tags: int = NUM_TAGS) -> CaptionMatrix:
    """The matrix of lists of tag indices; a tag that is repeated counts once."""
    unique = [sorted(set(row)) for row in rows]
    indptr = np.cumsum([0, *map(len, unique)])
    return caption_matrix(np.array([tag for row in unique for tag in row], dtype=np.int64), indptr, num_tags)


def post_ids_of(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.arange(len(rows), dtype=np.int64) * 7 + 100


def rows_of(captions: CaptionMatrix) -> list[list[int]]:
    return [captions.indices[start:end].tolist() for start, end in zip(captions.indptr, captions.indptr[1:])]  # noqa: B905


def held_out_of(rows: Sequence[Sequence[int]], num_tags: int = NUM_TAGS) -> HeldOut:
    """Half of the tags hidden, at least in one post."""
    return hold_out(captions_of([[0, 1, 2, 3], *rows], num_tags), post_ids_of([[], *rows]), "half", seed=3)


class FixedScorer:
    """Gives out rows of a table of scores, in the order of the posts."""

    def __init__(self, table: NDArray[np.float32], name: str = "fixed") -> None:
        self.name = name
        self.table = table
        self.num_scored = 0

    def scores(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        start, self.num_scored = self.num_scored, self.num_scored + visible.shape[0]
        return self.table[start : self.num_scored]


def topic_rows(num_posts: int, num_tags: int, seed: int) -> list[list[int]]:
    """Posts about one of a few topics: each tag of the topic with probability .7, each other with .1."""
    generator = np.random.default_rng(seed)
    topics = np.arange(num_tags) % 3
    shares = np.where(generator.integers(0, 3, num_posts)[:, None] == topics, 0.7, 0.1)
    return [np.flatnonzero(row).tolist() for row in generator.random((num_posts, num_tags)) < shares]


ROWS = topic_rows(200, NUM_TAGS, seed=1)
TRAIN = captions_of(ROWS)
DENSE = TRAIN.toarray().astype(np.float64)
VISIBLE = captions_of([[0, 3], [1], [2, 4, 8], []])
