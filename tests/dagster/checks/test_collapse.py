"""Embeddings that have collapsed, beside some that have not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from booru_embed_dagster.checks.collapse import MIN_EFFECTIVE_RANK, isotropy_findings

FILE = Path("vectors.parquet")


def random_vectors() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(500, 8)).astype(np.float32)


def test_vectors_in_all_directions_pass_whatever_their_length() -> None:
    lengths = np.linspace(0.01, 100, 500, dtype=np.float32)[:, None]
    found = [isotropy_findings(FILE, vectors) for vectors in (random_vectors(), random_vectors() * lengths)]
    assert [each.problems for each in found] == [[], []]
    assert found[0].figures["num_vectors"] == 500
    assert float(found[0].figures["effective_rank"]) > 7  # type: ignore[arg-type]
    assert found[0].figures["effective_rank"] == pytest.approx(found[1].figures["effective_rank"], rel=1e-5)


def test_vectors_in_one_direction_fail_with_the_remedy() -> None:
    found = isotropy_findings(FILE, np.ones((500, 8), np.float32) + random_vectors() / 100)
    (problem,) = found.problems
    assert problem.startswith("vectors.parquet: the embeddings have collapsed: they use 1.0 of 8 directions")
    assert problem.endswith("lower [training] learning_rate")
    assert float(found.figures["effective_rank"]) < MIN_EFFECTIVE_RANK  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_vector_without_a_direction_fails(bad: float) -> None:
    vectors = random_vectors()
    vectors[3] = bad
    assert isotropy_findings(FILE, vectors).problems == [
        "vectors.parquet: an embedding is not finite or is zero; lower [training] learning_rate"
    ]
