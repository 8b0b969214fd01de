"""Caption matrices and pair counts agree with a loop over the captions."""

from __future__ import annotations

import dataclasses
import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.tokens import cooccurrence
from booru_embed_core.tokens.cooccurrence import (
    CaptionMatrix,
    caption_matrix,
    captions_from_packed,
    count_cooccurrence,
    ppmi_factors,
    truncated_svd,
)
from booru_embed_core.tokens.packed_file import PackedFileError
from tests.core.in_memory_helpers import packed_of

NUM_TAGS = 9
ROWS = st.lists(st.lists(st.integers(0, NUM_TAGS - 1), unique=True, max_size=NUM_TAGS), min_size=1, max_size=12)


def matrix_of(rows: list[list[int]]) -> CaptionMatrix:
    tags = np.array([tag for row in rows for tag in row], np.int64)
    return caption_matrix(tags, np.cumsum([0, *map(len, rows)]), NUM_TAGS)


@given(rows=ROWS, data=st.data())
@settings(deadline=None)
def test_a_packed_file_is_the_matrix_of_its_captions(rows: list[list[int]], data: st.DataObject) -> None:
    packed, vocab = packed_of(rows, NUM_TAGS)
    asked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    found = captions_from_packed(packed, vocab, np.array(asked, np.int64))
    assert found.shape == (len(asked), NUM_TAGS)
    assert found.dtype == np.float32
    for row, post in enumerate(asked):
        assert found.indices[found.indptr[row] : found.indptr[row + 1]].tolist() == sorted(rows[post])
    assert set(found.data.tolist()) <= {1.0}


def test_a_packed_file_of_another_vocabulary_is_refused() -> None:
    packed, _ = packed_of([[0, 1]], NUM_TAGS)
    _, other = packed_of([[0, 1]], NUM_TAGS + 1)
    with pytest.raises(PackedFileError, match="was made with the vocab"):
        captions_from_packed(packed, other, np.array([0]))


def test_a_local_id_outside_the_vocabulary_is_refused() -> None:
    packed, vocab = packed_of([[0, 1]], NUM_TAGS)
    # Beyond the five general tags, yet the index of a tag: unchecked, it would pass for a character.
    damaged = dataclasses.replace(packed, tokens=packed.tokens + np.uint16(5))
    with pytest.raises(PackedFileError, match="a token lies beyond its category's vocabulary"):
        captions_from_packed(damaged, vocab, np.array([0]))


@given(rows=ROWS, max_tags=st.integers(1, NUM_TAGS), chunk=st.integers(1, 5))
@settings(deadline=None)
def test_counts_are_those_of_a_loop(rows: list[list[int]], max_tags: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cooccurrence, "_CHUNK_POSTS", chunk)
        pairs = count_cooccurrence(matrix_of(rows), max_tags)
    counts = [sum(tag in row for row in rows) for tag in range(NUM_TAGS)]
    assert pairs.counts.tolist() == counts
    assert pairs.num_posts == len(rows)
    # The most used tags; ties by index.
    assert pairs.fitted.tolist() == sorted(sorted(range(NUM_TAGS), key=lambda tag: (-counts[tag], tag))[:max_tags])
    wanted = [[sum(a in row and b in row for row in rows) for b in pairs.fitted] for a in pairs.fitted]
    assert pairs.together.tolist() == wanted
    assert np.all((pairs.shares > 0) & (pairs.shares < 1))


@given(rows=ROWS, max_tags=st.integers(1, NUM_TAGS - 1))
@settings(deadline=None)
def test_tags_that_are_not_fitted_rank_last_and_by_popularity(rows: list[list[int]], max_tags: int) -> None:
    train = matrix_of(rows)
    pairs = count_cooccurrence(train, max_tags)
    selected = pairs.select(train)
    assert selected.shape == (len(rows), max_tags)
    assert selected.toarray().tolist() == train.toarray()[:, pairs.fitted].tolist()
    scores = np.random.default_rng(0).normal(0, 100, (3, max_tags)).astype(np.float32)
    every = pairs.expand(scores)
    assert np.array_equal(every[:, pairs.fitted], scores)
    others = np.setdiff1d(np.arange(NUM_TAGS), pairs.fitted)
    assert np.all(every[:, others].max(axis=1) < scores.min(axis=1))
    by_popularity = others[np.argsort(pairs.counts[others], kind="stable")]
    assert np.all(np.diff(every[:, by_popularity], axis=1) >= 0)


def test_factors_multiply_to_the_ppmi_of_pairs_and_are_the_same_each_time() -> None:
    numbers = np.random.default_rng(5)
    rows = [numbers.permutation(NUM_TAGS)[: numbers.integers(2, 6)].tolist() for _ in range(40)]
    pairs = count_cooccurrence(matrix_of(rows), NUM_TAGS)
    left, singular, right = ppmi_factors(pairs, NUM_TAGS)
    together = {(a, b): sum(a in row and b in row for row in rows) for a, b in permutations(range(NUM_TAGS), 2)}
    uses = [sum(num for (a, _), num in together.items() if a == tag) for tag in range(NUM_TAGS)]
    contexts = [use**0.75 / sum(other**0.75 for other in uses) for use in uses]
    wanted = np.zeros((NUM_TAGS, NUM_TAGS))
    for (a, b), num in together.items():
        if num:
            wanted[a, b] = max(0.0, math.log(num / (uses[a] * contexts[b])))
    assert wanted.max() > 0.1
    np.testing.assert_allclose((left * singular) @ right.T, wanted, atol=1e-8)
    again = ppmi_factors(pairs, NUM_TAGS)
    assert all(np.array_equal(one, other) for one, other in zip((left, singular, right), again, strict=True))


def test_a_pair_that_occurs_once_counts() -> None:
    left, singular, right = ppmi_factors(count_cooccurrence(matrix_of([[0, 1]]), NUM_TAGS), NUM_TAGS)
    ppmi = (left * singular) @ right.T
    assert ppmi[0, 1] == pytest.approx(math.log(2))
    assert ppmi[0, 0] == pytest.approx(0)


def test_a_matrix_has_no_more_factors_than_rows() -> None:
    left, singular, right = truncated_svd(np.diag([3.0, 2.0, 1.0]), 8)
    assert left.shape == right.shape == (3, 3)
    assert singular == pytest.approx([3, 2, 1])
