"""Cosines after the mean is subtracted, beside float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.embedder.neighbours import Centred
from booru_embed_core.vectors import unit_vectors


@settings(max_examples=30, deadline=None)
@given(num=st.integers(2, 30), dim=st.integers(2, 9), seed=st.integers(0, 999))
def test_cosines_are_those_of_the_differences_from_the_mean(num: int, dim: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    vectors = unit_vectors((numbers.normal(size=(num, dim)) + 1).astype(np.float32))
    counts = numbers.integers(0, 1000, num) + 1
    centred = Centred.of(vectors, counts)
    mean = np.average(vectors.astype(np.float64), axis=0, weights=counts)
    assert centred.mean == pytest.approx(mean, abs=1e-5)
    asked = numbers.normal(size=dim)
    differences = vectors - mean
    lengths = np.linalg.norm(differences, axis=1)
    cosines = differences @ asked / (lengths * np.linalg.norm(asked))
    clear = lengths > 1e-2
    assert centred.cosines(asked.astype(np.float32))[clear] == pytest.approx(cosines[clear], abs=1e-3)
    assert np.abs(centred.cosines(asked.astype(np.float32))).max() <= 1
    halved = Centred.of(vectors.astype(np.float16), counts)
    assert halved.cosines(asked.astype(np.float32))[clear] == pytest.approx(cosines[clear], abs=0.05)


def test_a_hub_is_no_longer_near_to_everything() -> None:
    numbers = np.random.default_rng(0)
    own = numbers.normal(size=(60, 16))
    own[0] = 0  # nothing of its own: it lies along what all share
    vectors = unit_vectors((own + 3 * np.eye(16)[0]).astype(np.float32))
    centred = Centred.of(vectors, np.ones(60, np.int64))

    def largest_hub(cosines: np.ndarray) -> int:
        np.fill_diagonal(cosines, -2)
        return int(np.bincount(np.argsort(-cosines, axis=1)[:, :5].ravel()).max())

    before = largest_hub(vectors @ vectors.T)
    after = largest_hub(np.stack([centred.cosines(vector - centred.mean) for vector in vectors]))
    assert before > 60 / 2
    assert after < before / 2


def test_equal_embeddings_have_no_direction() -> None:
    vectors = np.full((4, 2), 0.5, np.float32)
    centred = Centred.of(vectors, np.zeros(4, np.int64))
    assert np.isfinite(Centred.of(vectors, np.ones(4, np.int64)).cosines(np.zeros(2, np.float32))).all()
    assert np.isfinite(centred.cosines(vectors[0])).all()
