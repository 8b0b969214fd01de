"""Ranking by tags beside sorting all posts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.search.posts_table import PostsTable
from booru_embed_core.search.ranking import ranked, tags_held
from booru_embed_core.search.vector_index import VectorIndex
from booru_embed_core.vectors import unit_vectors
from tests.core.search.query_helpers import POSTS, TAGS

VECTORS = unit_vectors(np.random.default_rng(2).normal(size=(len(POSTS), 8)).astype(np.float32)).astype(np.float16)


@pytest.fixture(scope="module")
def index() -> VectorIndex:
    made = VectorIndex.build(VECTORS)
    made.nprobe = made.num_lists
    return made


@settings(max_examples=60, deadline=None)
@given(
    asked=st.lists(st.integers(0, len(TAGS) - 1), max_size=6, unique=True),
    num_first=st.integers(0, 6),
    k=st.integers(1, 230),
    share=st.sampled_from([None, 0.0, 0.05, 0.5]),
    seed=st.integers(0, 99),
)
def test_the_best_are_those_of_sorting_all(
    posts_table: PostsTable,
    index: VectorIndex,
    asked: list[int],
    num_first: int,
    k: int,
    share: float | None,
    seed: int,
) -> None:
    numbers = np.random.default_rng(seed)
    vector = unit_vectors(numbers.normal(size=8).astype(np.float32))
    passing = None if share is None else numbers.random(len(POSTS)) < share
    first = asked[:num_first]
    rows, cosines = ranked(posts_table, index, vector, k, asked, first, passing)
    exact = VECTORS.astype(np.float32) @ vector

    def key(row: int) -> tuple[int, int, float]:
        tags = POSTS[row].tags
        return sum(TAGS[tag] in tags for tag in asked), sum(TAGS[tag] in tags for tag in first), float(exact[row])

    expected = sorted(range(len(POSTS)) if passing is None else np.flatnonzero(passing).tolist(), key=key, reverse=True)
    assert len(rows) == len(set(rows.tolist())) == min(k, len(expected))
    assert [key(row)[:2] for row in rows.tolist()] == [key(row)[:2] for row in expected[:k]]
    assert cosines == pytest.approx(exact[rows], abs=1e-3)
    assert cosines == pytest.approx(exact[expected[:k]], abs=1e-3)


def test_many_tags_are_counted(posts_table: PostsTable) -> None:
    every = list(range(len(TAGS)))
    assert tags_held(posts_table, every).tolist() == [len(post.tags) for post in POSTS]
    assert tags_held(posts_table, every, 1000).tolist() == [1000 * len(post.tags) for post in POSTS]
