"""The benchmark of weights: its dense reference is the library's network; its tagger and ranks are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import weights
from tests.core.model_helpers import CATEGORY_SIZES, encoder

NUM_TAGS = sum(CATEGORY_SIZES)


def some_weights(num: int, seed: int) -> weights.Scores:
    numbers = np.random.default_rng(seed)
    given = numbers.uniform(0.1, 3, (num, NUM_TAGS)) * (numbers.random((num, NUM_TAGS)) < 0.4)
    given[0] = 0  # the empty caption
    return given.astype(np.float32)


def test_the_log_weight_is_the_mechanism_of_the_library() -> None:
    model, given = encoder(), some_weights(12, 1)
    expected = weights.embedded(model, given, None)
    assert weights.embedded(model, given, "log weight") == pytest.approx(expected, abs=1e-5)
    ones = (given > 0).astype(np.float32)
    plain = weights.embedded(model, ones, None)
    for mechanism in weights.MECHANISMS:
        assert weights.embedded(model, ones, mechanism) == pytest.approx(plain, abs=1e-5)
        assert np.abs(weights.embedded(model, given, mechanism) - plain).max() > 0.01


def test_a_tagger_scores_true_tags_high_and_some_others_low() -> None:
    captions = (np.random.default_rng(1).random((200, 60)) < 0.2).astype(np.float32)
    beside = np.full((60, 60), 0.1, np.float32)
    beside[:, 50:] = 0  # never beside others
    scores = weights.simulated_scores(captions, beside, 3)
    assert np.array_equal(scores, weights.simulated_scores(captions, beside, 3))
    assert not np.array_equal(scores, weights.simulated_scores(captions, beside, 4))
    assert (scores[captions > 0] > 0).all()
    assert scores[captions > 0].mean() > 0.6
    is_false = (captions == 0) & (scores > 0)
    assert not is_false[:, 50:].any()
    assert is_false.sum(1).mean() == pytest.approx(weights.NUM_FALSE, rel=0.1)
    assert scores[is_false].mean() < 0.3


def test_the_readings_of_scores() -> None:
    scores = np.array([[0, 0.04, 0.2, 0.5, 0.9]], np.float32)
    assert weights.threshold(0.35)(scores).tolist() == [[0, 0, 0, 1, 1]]
    assert weights.powers(2.0)(scores)[0] == pytest.approx([0, 0, 0.04, 0.25, 0.81])
    true = np.array([[0, 0, 0, 1, 1]], np.float32)
    read = weights.calibrated(np.repeat(scores, 9, 0), np.repeat(true, 9, 0))
    assert read(scores)[0] == pytest.approx([0, 0, 0, 1, 1], abs=0.51)
    assert (np.diff(read(np.linspace(0.1, 1, 30, dtype=np.float32)[None])[0]) >= 0).all()


def test_the_rank_of_the_own_caption() -> None:
    gallery = np.eye(3, dtype=np.float32)
    queries = np.array([[1, 0, 0], [0.9, 0.8, 0], [0.9, 0.8, 0.85]], np.float32)
    assert weights.ranks_of_own(queries, gallery, np.array([0, 1, 1])).tolist() == [1, 2, 3]
