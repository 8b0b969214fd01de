"""Isotropy against pairs counted one by one, and on cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.evaluation.effective_rank import isotropy


def directions(num: int, dim: int, seed: int = 7) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((num, dim))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@given(st.integers(2, 20), st.integers(1, 6), st.integers(0, 1000))
def test_the_mean_cosine_is_that_of_all_pairs(num: int, dim: int, seed: int) -> None:
    vectors = directions(num, dim, seed)
    pairs = [vectors[i] @ vectors[j] for i in range(num) for j in range(num) if i != j]
    found = isotropy(vectors.astype(np.float32))
    assert found.mean_cosine == pytest.approx(np.mean(pairs), abs=1e-5)
    assert 1 - 1e-5 <= found.effective_rank <= min(num, dim) + 1e-5


@pytest.mark.parametrize("rank", [1, 2, 5, 16])
def test_rows_that_are_spread_evenly_over_axes_use_as_many_directions(rank: int) -> None:
    found = isotropy(np.eye(16)[np.arange(16 * rank) % rank])
    assert found.effective_rank == pytest.approx(rank)


def test_rows_that_are_all_alike_have_rank_one_whatever_noise_is_on_them() -> None:
    noisy = np.ones((500, 64)) / 8 + 1e-4 * directions(500, 64)
    found = isotropy(noisy / np.linalg.norm(noisy, axis=-1, keepdims=True))
    assert found.mean_cosine == pytest.approx(1, abs=1e-6)
    assert found.effective_rank == pytest.approx(1, abs=1e-5)


def test_opposite_rows_have_no_mean_cosine_and_still_one_direction() -> None:
    found = isotropy(np.tile([[1.0, 0.0], [-1.0, 0.0]], (50, 1)))
    assert found.mean_cosine == pytest.approx(-1 / 99)
    assert found.effective_rank == pytest.approx(1)


def test_directions_drawn_at_random_use_the_whole_room() -> None:
    assert isotropy(directions(5000, 32)).effective_rank > 31


def test_a_weight_counts_a_row_as_often() -> None:
    vectors, times = directions(6, 4), np.array([1, 3, 0, 2, 5, 1])
    found, repeated = isotropy(vectors, times), isotropy(np.repeat(vectors, times, axis=0))
    assert found.effective_rank == pytest.approx(repeated.effective_rank)
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    shares = [times[i] * times[j] for i, j in pairs]
    assert found.mean_cosine == pytest.approx(np.average([vectors[i] @ vectors[j] for i, j in pairs], weights=shares))
