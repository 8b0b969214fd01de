"""Unit vectors against numpy's norm, and the highest values against a sort."""

from __future__ import annotations

import numpy as np
import pytest

from booru_embed_core.vectors import top_k, unit_vectors


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_lengths_are_one_and_directions_stay(dtype: type, shape: tuple[int, ...]) -> None:
    vectors = np.random.default_rng(7).normal(size=shape).astype(dtype)
    units = unit_vectors(vectors)
    assert (units.dtype, units.shape) == (vectors.dtype, shape)
    tolerance = 1e-2 if dtype is np.float16 else 1e-6
    assert np.allclose(np.linalg.norm(units.astype(np.float64), axis=-1), 1, atol=tolerance)
    assert np.allclose(units * np.linalg.norm(vectors, axis=-1, keepdims=True), vectors, atol=tolerance)


def test_zeros_stay_zeros_without_a_warning_and_the_input_is_untouched() -> None:
    vectors = np.array([[0, 0], [3, 4]], dtype=np.float32)
    assert unit_vectors(vectors).tolist() == [[0, 0], pytest.approx([0.6, 0.8])]
    assert vectors.tolist() == [[0, 0], [3, 4]]


@pytest.mark.parametrize("num_values", [1, 7, 100, 64 * 20, 64 * 20 + 1, 5000])
@pytest.mark.parametrize("levels", [3, 1_000_000])
def test_the_highest_are_those_of_a_sort(num_values: int, levels: int) -> None:
    numbers = np.random.default_rng(num_values + levels)
    for k in (1, 2, 10, 19, 20, 200, num_values):
        values = numbers.integers(0, levels, num_values).astype(np.float32)
        candidates = np.flatnonzero(numbers.random(num_values) < 0.9)
        wanted = sorted(candidates.tolist(), key=lambda index: (-values[index], index))[:k]
        assert top_k(values, candidates, k) == wanted
        assert top_k(values[candidates], None, k) == [candidates.tolist().index(index) for index in wanted]
