"""Tag vectors against their formulas, written out slowly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from booru_embed_core.evaluation.baselines import EmbeddingScorer
from booru_embed_core.evaluation.tag_vectors import (
    WEIGHTINGS,
    Rule,
    Weighting,
    factor_lsa,
    factor_ppmi,
    tag_vectors,
)
from booru_embed_core.tokens.cooccurrence import Cooccurrence
from tests.core.evaluation.evaluation_helpers import DENSE, NUM_TAGS, ROWS, VISIBLE, rows_of


def ppmi_slowly() -> NDArray[np.float64]:
    together = DENSE.T @ DENSE
    np.fill_diagonal(together, 0)
    uses = together.sum(axis=1)
    smoothed = uses**0.75 / np.sum(uses**0.75)
    ppmi = np.zeros_like(together)
    for a, b in itertools.product(range(NUM_TAGS), repeat=2):
        if together[a, b]:
            joint = together[a, b] / together.sum()
            ppmi[a, b] = max(0.0, math.log(joint / (uses[a] / together.sum() * smoothed[b])))
    return ppmi


def test_ppmi_of_full_dimension_scores_by_sums_of_ppmi(pairs: Cooccurrence) -> None:
    scores = factor_ppmi(pairs, dim=256).scorer(NUM_TAGS, "product").scores(VISIBLE)
    assert ppmi_slowly().any()
    assert scores == pytest.approx(VISIBLE @ ppmi_slowly(), abs=1e-4)


def test_ppmi_ranks_by_cosine_of_the_mean_vector(pairs: Cooccurrence) -> None:
    scorer = factor_ppmi(pairs, dim=4).scorer(3, "cosine")
    right = np.linalg.svd(ppmi_slowly())[2][:3].T
    visible = VISIBLE[:3]
    means = np.stack([right[row].mean(axis=0) for row in rows_of(visible)])
    cosines = means @ right.T / np.linalg.norm(means, axis=1)[:, None] / np.linalg.norm(right, axis=1)
    scores = scorer.scores(visible)
    own = scores / (scores / cosines)[:, :1]  # up to a positive factor of the row
    assert np.all((scores / cosines)[:, 0] > 0)
    assert own == pytest.approx(cosines, abs=1e-4)


@pytest.mark.parametrize("rule", ["cosine", "product"])
def test_ppmi_embeds_by_the_mean_of_vectors(pairs: Cooccurrence, rule: Rule) -> None:
    scorer = factor_ppmi(pairs, dim=4).scorer(4, rule)
    assert isinstance(scorer, EmbeddingScorer)
    embedded = scorer.embed(VISIBLE)
    assert embedded.shape == (4, 4)
    assert embedded.dtype == np.float32
    centre = np.concatenate([scorer.vectors[row] for row in ROWS]).mean(axis=0)
    assert embedded[2] == pytest.approx(scorer.vectors[[2, 4, 8]].mean(axis=0) - centre, abs=1e-5)
    assert np.all(embedded[3] == 0)


def test_ppmi_factors_are_the_same_every_time(pairs: Cooccurrence) -> None:
    first, second = factor_ppmi(pairs, 5), factor_ppmi(pairs, 5)
    assert np.array_equal(first.left, second.left)
    assert np.array_equal(first.right, second.right)


def weights_slowly(weighting: Weighting) -> NDArray[np.float64]:
    return np.array([math.log(1 + 200 / count) if weighting == "idf" else 1.0 for count in DENSE.sum(axis=0)])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("dim", [1, 3, NUM_TAGS])
def test_lsa_folds_captions_in_and_reads_them_back(pairs: Cooccurrence, weighting: Weighting, dim: int) -> None:
    weights = weights_slowly(weighting)
    right = np.linalg.svd(DENSE * weights)[2][:dim].T  # of the posts themselves
    expected = (VISIBLE.toarray() * weights) @ right @ right.T / weights
    scorer = factor_lsa(pairs, dim + 2, weighting).scorer(dim)
    assert scorer.name == "lsa"
    assert scorer.scores(VISIBLE) == pytest.approx(expected, abs=1e-4)


def test_lsa_compares_captions_as_their_places_among_the_factors(pairs: Cooccurrence) -> None:
    weights = weights_slowly("idf")
    right = np.linalg.svd(DENSE * weights)[2][:3].T
    scorer = factor_lsa(pairs, 3, "idf").scorer(3)
    assert isinstance(scorer, EmbeddingScorer)
    counts = DENSE.sum(axis=0)
    centre = counts @ (right * weights[:, None]) / counts.sum()
    slowly = [(weights[row, None] * right[row]).mean(axis=0) - centre for row in rows_of(VISIBLE)[:3]]
    found = scorer.embed(VISIBLE)[:3]
    # Signs of factors are free; products of embeddings are not.
    assert found @ found.T == pytest.approx(np.array(slowly) @ np.array(slowly).T, abs=1e-4)


def test_lsa_of_the_same_counts_is_the_same(pairs: Cooccurrence) -> None:
    assert np.array_equal(factor_lsa(pairs, 4, "idf").right, factor_lsa(pairs, 4, "idf").right)


def test_a_prior_counts_whatever_is_visible(pairs: Cooccurrence) -> None:
    vectors = np.random.default_rng(3).normal(size=(NUM_TAGS, 4))
    prior = np.arange(NUM_TAGS, dtype=np.float64)
    without, with_prior = tag_vectors("a", pairs, vectors, vectors), tag_vectors("a", pairs, vectors, vectors, prior)
    assert without.scores(VISIBLE) == pytest.approx(VISIBLE @ vectors @ vectors.T, abs=1e-4)
    assert with_prior.scores(VISIBLE) - without.scores(VISIBLE) == pytest.approx(np.tile(prior, (4, 1)), abs=1e-4)
