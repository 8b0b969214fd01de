"""The search benchmark at a small size."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._post_vectors import generate
from benchmarks.search import Flat, Graph, Lists, best_rows, measure

NUM = 4000


def test_the_same_seed_gives_the_same_unit_vectors() -> None:
    one, again, other = (generate(300, 20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.vectors, again.vectors)
    assert np.array_equal(one.typed, again.typed)
    assert not np.array_equal(one.vectors, other.vectors)
    for vectors, num in ((one.vectors, 300), (one.typed, 20), (one.posts, 20)):
        assert vectors.shape == (num, 128)
        assert np.linalg.norm(vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=2e-3)


def test_the_nearest_rows_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made = generate(300, 4)
    passing = np.random.default_rng(0).random(300) < 0.5
    monkeypatch.setattr("benchmarks.search.CHUNK", 70)
    scores = made.typed @ made.vectors.astype(np.float32).T
    assert np.array_equal(best_rows(made.vectors, made.typed), np.argsort(-scores, axis=1)[:, :10])
    scores[:, ~passing] = -1
    assert np.array_equal(best_rows(made.vectors, made.typed, passing), np.argsort(-scores, axis=1)[:, :10])


def test_every_way_is_tuned_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.search.NUM_QUERIES", 32)
    made = generate(NUM, 64)
    masks = {"0.1": np.random.default_rng(0).random(NUM) < 0.1}
    queries = {"tuning": made.typed[:32], "typed": made.typed[32:], "posts": made.posts}
    truth = {name: best_rows(made.vectors, asked) for name, asked in queries.items()}
    truth["0.1"] = best_rows(made.vectors, made.typed[32:], masks["0.1"])
    for make in (Flat, Lists, Graph):
        found = measure(make, made, truth, masks)
        assert found["bytes_per_post"] > 256
        assert found["typed"]["recall"] > 0.9
        assert found["filtered"]["0.1"]["fewest_found"] == 10
        if make is not Graph:
            assert found["filtered"]["0.1"]["recall"] == pytest.approx(1, abs=0.02)
    exact = measure(Flat, made, truth, masks)
    assert exact["typed"]["recall"] == exact["posts"]["recall"] == pytest.approx(1, abs=0.01)
