"""Each baseline against its formula, written out slowly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from booru_embed_core.evaluation.baselines import Popularity, Scorer, fit_ease, fit_item_knn, fit_naive_bayes
from booru_embed_core.evaluation.tag_vectors import factor_lsa, factor_ppmi
from booru_embed_core.tokens import cooccurrence
from booru_embed_core.tokens.cooccurrence import Cooccurrence, count_cooccurrence
from tests.core.evaluation.evaluation_helpers import (
    DENSE,
    NUM_TAGS,
    ROWS,
    TRAIN,
    VISIBLE,
    captions_of,
    rows_of,
    topic_rows,
)


def ridge_slowly(inputs: NDArray[np.float64], target: int, penalty: float) -> NDArray[np.float64]:
    """Weights of the ridge regression of column `target` on the other columns; 0 for itself."""
    others = [tag for tag in range(inputs.shape[1]) if tag != target]
    x = inputs[:, others]
    weights = np.zeros(inputs.shape[1])
    weights[others] = np.linalg.solve(x.T @ x + penalty * np.eye(len(others)), x.T @ inputs[:, target])
    return weights


def test_pairs_are_counted_as_by_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooccurrence, "_CHUNK_POSTS", 33)
    pairs = count_cooccurrence(TRAIN, max_tags=100)
    for a, b in itertools.product(range(NUM_TAGS), repeat=2):
        assert pairs.together[a, b] == sum(a in row and b in row for row in ROWS)
    assert pairs.counts.tolist() == [sum(tag in row for row in ROWS) for tag in range(NUM_TAGS)]
    assert pairs.num_posts == 200
    assert pairs.fitted.tolist() == list(range(NUM_TAGS))


def test_popularity_is_the_share_of_posts_whatever_is_visible(pairs: Cooccurrence) -> None:
    scores = Popularity(pairs).scores(VISIBLE)
    assert scores.shape == (4, NUM_TAGS)
    assert np.all(scores == scores[0])
    assert scores[0] == pytest.approx((DENSE.sum(axis=0) + 1) / 202)


@pytest.mark.parametrize("damping", [0.0, 0.3, 1.0])
def test_naive_bayes_is_its_formula(pairs: Cooccurrence, damping: float) -> None:
    scores = fit_naive_bayes(pairs, damping).scores(VISIBLE)
    counts = DENSE.sum(axis=0)
    for row, visible in enumerate(rows_of(VISIBLE)):
        for tag in set(range(NUM_TAGS)) - set(visible):
            expected = math.log((counts[tag] + 1) / 202)
            for seen in visible:
                share = (counts[seen] + 1) / 202
                together = float(np.sum(DENSE[:, seen] * DENSE[:, tag]))
                expected += damping * math.log((together + 10 * share) / (counts[tag] + 10) / share)
            assert scores[row, tag] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ridge", [0.5, 30.0])
def test_ease_is_a_ridge_regression_of_each_tag_on_the_others(pairs: Cooccurrence, ridge: float) -> None:
    weights = np.stack([ridge_slowly(DENSE, tag, ridge) for tag in range(NUM_TAGS)], axis=1)
    found = fit_ease(pairs, ridge)
    assert found.name == "ease"
    assert found.scores(VISIBLE) == pytest.approx(VISIBLE @ weights, abs=1e-5)


def test_edlae_is_a_ridge_regression_on_tags_dropped_at_random() -> None:
    dense = DENSE[:40, :4]
    dropout, ridge = 0.3, 2.0
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=4)))
    chances = np.prod(np.where(masks > 0, 1 - dropout, dropout), axis=1)
    expected = np.zeros((4, 4))
    for target, others in ((t, [o for o in range(4) if o != t]) for t in range(4)):
        gram, moment = np.zeros((3, 3)), np.zeros(3)
        for mask, chance in zip(masks, chances, strict=True):
            x = (dense * mask)[:, others]
            gram += chance * x.T @ x
            moment += chance * x.T @ dense[:, target]
        # Scaled by the share of tags that stay: a factor of all weights, which moves no rank.
        solved = np.linalg.solve(gram + ridge * (1 - dropout) ** 2 * np.eye(3), moment)
        expected[others, target] = (1 - dropout) * solved
    small = captions_of([np.flatnonzero(row).tolist() for row in dense], 4)
    found = fit_ease(count_cooccurrence(small, 4), ridge, dropout)
    assert found.name == "edlae"
    assert found.weights == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("ridge", "dropout"), [(0.0, 0.0), (-1.0, 0.0), (1.0, 1.0), (1.0, -0.1)])
def test_a_penalty_that_cannot_be_inverted_is_refused(pairs: Cooccurrence, ridge: float, dropout: float) -> None:
    with pytest.raises(ValueError, match=f"ridge {ridge} and dropout {dropout}"):
        fit_ease(pairs, ridge, dropout)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("num_neighbours", [1, 3, 100])
def test_item_knn_is_a_sum_over_the_nearest_tags(pairs: Cooccurrence, num_neighbours: int, exponent: float) -> None:
    counts = DENSE.sum(axis=0)
    expected = np.zeros((4, NUM_TAGS))
    for tag in range(NUM_TAGS):
        similar = {}
        for other in set(range(NUM_TAGS)) - {tag}:
            together = float(np.sum(DENSE[:, other] * DENSE[:, tag]))
            similar[other] = together / (counts[other] ** exponent * counts[tag] ** (1 - exponent))
        nearest = sorted(similar, key=lambda other: (-similar[other], other))[:num_neighbours]
        for row, visible in enumerate(rows_of(VISIBLE)):
            expected[row, tag] = sum(similar[other] for other in nearest if other in visible)
    assert expected.any()
    assert fit_item_knn(pairs, num_neighbours, exponent).scores(VISIBLE) == pytest.approx(expected, abs=1e-5)


def scorers_of(pairs: Cooccurrence) -> list[Scorer]:
    return [
        fit_naive_bayes(pairs, 0.3),
        fit_ease(pairs, 10.0),
        fit_item_knn(pairs, 3, 0.5),
        factor_ppmi(pairs, 3).scorer(2, "cosine"),
        factor_lsa(pairs, 3, "idf").scorer(2),
    ]


def test_tags_beyond_the_limit_rank_below_by_popularity() -> None:
    counts = DENSE.sum(axis=0)
    order = sorted(range(NUM_TAGS), key=lambda tag: (-counts[tag], tag))
    fitted, rest = sorted(order[:5]), order[5:]
    limited = count_cooccurrence(TRAIN, max_tags=5)
    assert limited.fitted.tolist() == fitted
    alone = count_cooccurrence(TRAIN[:, fitted], max_tags=5)
    for scorer, small in zip(scorers_of(limited), scorers_of(alone), strict=True):
        scores = scorer.scores(VISIBLE)
        assert scores.shape == (4, NUM_TAGS)
        assert scores[:, fitted] == pytest.approx(small.scores(VISIBLE[:, fitted]))
        ranked = np.argsort(-scores, axis=1, kind="stable")
        assert np.all(np.sort(ranked[:, :5], axis=1) == fitted)
        assert len({counts[tag] for tag in rest}) > 1
        assert np.all(ranked[:, 5:] == rest)


def test_a_tag_that_no_training_post_has_gets_finite_scores() -> None:
    train = captions_of(topic_rows(50, 6, seed=2))  # tags 6, 7 and 8 are never used
    pairs = count_cooccurrence(train, max_tags=100)
    for scorer in [Popularity(pairs), *scorers_of(pairs), fit_ease(pairs, 1.0, 0.5)]:
        assert np.all(np.isfinite(scorer.scores(VISIBLE)))


def test_a_single_post_of_a_single_tag_can_be_fitted() -> None:
    pairs = count_cooccurrence(captions_of([[0]], 1), max_tags=100)
    for scorer in [Popularity(pairs), *scorers_of(pairs)]:
        assert np.all(np.isfinite(scorer.scores(captions_of([[0], []], 1))))
