"""Metrics against a slow loop over posts and tags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from booru_embed_core.evaluation import metrics as metrics_module
from booru_embed_core.evaluation.baselines import Ease
from booru_embed_core.evaluation.implied import without_implied
from booru_embed_core.evaluation.metrics import (
    ScoreError,
    evaluate_scorer,
    hidden_ranks,
    mean_metrics,
    metrics_of_ranks,
    rank_hidden,
    ranks_of_group,
    split_half_recall,
)
from booru_embed_core.evaluation.tasks import HeldOut
from booru_embed_core.tokens.cooccurrence import count_cooccurrence
from tests.core.evaluation.evaluation_helpers import (
    CAPTIONS,
    NUM_TAGS,
    FixedScorer,
    captions_of,
    held_out_of,
    rows_of,
    topic_rows,
)

KS = (1, 2, 5)


def metrics_slowly(table: NDArray[np.float32], held_out: HeldOut) -> dict[str, float]:
    values: dict[str, list[float]] = {f"recall@{k}": [] for k in KS} | {"mrr": []}
    for scores, filtered, hidden in zip(table, rows_of(held_out.filtered), rows_of(held_out.hidden), strict=True):
        ranking = sorted(set(range(NUM_TAGS)) - set(filtered), key=lambda tag: (-scores[tag], tag))
        for k in KS:
            values[f"recall@{k}"].append(len(set(ranking[:k]) & set(hidden)) / min(k, len(hidden)))
        values["mrr"].append(1 / (1 + min(ranking.index(tag) for tag in hidden)))
    return {metric: sum(of_posts) / len(of_posts) for metric, of_posts in values.items()}


def table_of(held_out: HeldOut, seed: int, num_levels: int) -> NDArray[np.float32]:
    """Scores with many ties where `num_levels` is small."""
    shape = (held_out.num_posts, NUM_TAGS)
    return np.random.default_rng(seed).integers(0, num_levels, shape).astype(np.float32)


@given(CAPTIONS, st.integers(0, 999), st.sampled_from([1, 2, 4, 1000]), st.integers(1, 4))
def test_metrics_are_those_of_the_loop(rows: list[list[int]], seed: int, num_levels: int, chunk: int) -> None:
    held_out = held_out_of(rows)
    table = table_of(held_out, seed, num_levels)
    (ranked,) = rank_hidden(FixedScorer(table), [held_out], chunk)
    found = mean_metrics(metrics_of_ranks(ranked.ranks, held_out.hidden, KS))
    assert list(found) == ["recall@1", "recall@2", "recall@5", "mrr"]
    assert found == pytest.approx(metrics_slowly(table, held_out))
    assert found["mrr"] == evaluate_scorer(FixedScorer(table), held_out)["mrr"]


@given(CAPTIONS, st.integers(0, 999), st.integers(1, 4))
def test_two_tasks_in_one_pass_are_as_two_passes(rows: list[list[int]], seed: int, chunk: int) -> None:
    held_out = held_out_of(rows)
    implied = captions_of([[1, 2], [0], [], [5], [], [1, 8], [], [], []]).astype(bool)
    left = without_implied(held_out, implied)
    table = table_of(held_out, seed, 4)
    ranked = rank_hidden(FixedScorer(table), [held_out, left], chunk)
    both = [metrics_of_ranks(one.ranks, task.hidden, KS) for one, task in zip(ranked, (held_out, left), strict=True)]
    assert mean_metrics(both[0]) == pytest.approx(metrics_slowly(table, held_out))
    kept = np.flatnonzero(np.isin(held_out.post_index, left.post_index))
    assert all(len(values) == left.num_posts for values in both[1].values())
    if left.num_posts:
        assert mean_metrics(both[1]) == pytest.approx(metrics_slowly(table[kept], left))


@given(CAPTIONS, st.integers(0, 999), st.integers(1, 30))
def test_ranks_do_not_depend_on_the_size_of_steps(rows: list[list[int]], seed: int, max_cells: int) -> None:
    held_out = held_out_of(rows)
    table = table_of(held_out, seed, 3)
    ranks = hidden_ranks(table.copy(), held_out.filtered, held_out.hidden)
    assert hidden_ranks(table.copy(), held_out.filtered, held_out.hidden, max_cells).tolist() == ranks.tolist()


def test_long_rows_are_ranked_like_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = held_out_of([[0, 1, 2, 3, 4, 5], [6, 7], [2, 8]])
    table = table_of(held_out, 5, 3)
    ranks = hidden_ranks(table, held_out.filtered, held_out.hidden)
    monkeypatch.setattr(metrics_module, "_LONG_ROW", 1)
    assert hidden_ranks(table, held_out.filtered, held_out.hidden).tolist() == ranks.tolist()


@given(CAPTIONS, st.integers(0, 999), st.integers(1, NUM_TAGS - 1), st.integers(1, 4))
def test_a_baseline_that_knows_some_tags_is_ranked_as_by_scores_of_all(
    rows: list[list[int]], seed: int, max_tags: int, chunk: int
) -> None:
    held_out = held_out_of(rows)
    left = without_implied(held_out, captions_of([[1, 2], [0], [], [5], [], [1, 8], [], [], []]).astype(bool))
    pairs = count_cooccurrence(captions_of(topic_rows(60, NUM_TAGS, seed=seed)), max_tags)
    weights = np.random.default_rng(seed).integers(-2, 3, (max_tags, max_tags)).astype(np.float32)
    known = Ease(pairs, weights)
    whole = FixedScorer(known.scores(held_out.visible))
    found, expected = (rank_hidden(scorer, [held_out, left], chunk) for scorer in (known, whole))
    assert [one.ranks.tolist() for one in found] == [one.ranks.tolist() for one in expected]


def test_a_perfect_and_a_worst_ranking_reach_the_ends() -> None:
    held_out = held_out_of([[0, 1, 2, 3, 4, 5], [6, 7]])
    perfect = held_out.hidden.toarray()
    assert set(evaluate_scorer(FixedScorer(perfect), held_out).values()) == {1.0}
    worst = evaluate_scorer(FixedScorer(-perfect), held_out)
    assert worst["recall@1"] == 0
    assert worst["mrr"] < 0.2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_cannot_be_ranked_names_the_scorer(bad: float) -> None:
    held_out = held_out_of([])
    table = np.zeros((1, NUM_TAGS), np.float32)
    table[0, held_out.visible.indices] = bad  # a scorer may mask what it was shown
    evaluate_scorer(FixedScorer(table), held_out)
    table[0, 8] = bad
    with pytest.raises(ScoreError, match="my-model: 1 of 9 scores are NaN or infinite"):
        evaluate_scorer(FixedScorer(table, "my-model"), held_out)


def test_scores_of_a_wrong_shape_name_the_scorer() -> None:
    with pytest.raises(ScoreError, match=r"my-model: scores of shape \(1, 4\) for captions of \(1, 9\)"):
        evaluate_scorer(FixedScorer(np.zeros((1, 4), np.float32), "my-model"), held_out_of([]))


def test_the_scorers_own_array_is_left_alone() -> None:
    table = np.ones((1, NUM_TAGS), np.float32)
    evaluate_scorer(FixedScorer(table), held_out_of([]))
    assert np.all(table == 1)


def test_no_posts_is_an_error() -> None:
    held_out = held_out_of([])
    nothing = HeldOut(held_out.visible[:0], held_out.hidden[:0], held_out.filtered[:0], held_out.post_index[:0])
    with pytest.raises(ValueError, match="no post to evaluate"):
        evaluate_scorer(FixedScorer(np.zeros((0, NUM_TAGS), np.float32)), nothing)


def top1_slowly(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        return float(one @ other / np.sqrt((one @ one) * (other @ other)))

    num_posts = len(a)
    found = 0
    for queries, keys in ((a, b), (b, a)):
        for i in range(num_posts):
            similarities = [cosine(queries[i], keys[j]) for j in range(num_posts)]
            found += similarities.index(max(similarities)) == i
    return found / (2 * num_posts)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 999), st.integers(1, 5))
def test_split_half_recall_is_that_of_the_loop(num_posts: int, dim: int, seed: int, chunk: int) -> None:
    generator = np.random.default_rng(seed)
    a = generator.normal(size=(num_posts, dim + 1)).astype(np.float32)
    b = (a + generator.normal(size=a.shape)).astype(np.float32)
    assert split_half_recall(a, b, chunk) == pytest.approx(top1_slowly(a, b))


def test_split_half_recall_of_equal_embeddings_is_that_of_chance() -> None:
    same = np.ones((10, 4), np.float32)
    assert split_half_recall(same, same) == pytest.approx(0.1)
    assert split_half_recall(np.zeros((10, 4), np.float32), same) == pytest.approx(0.1)


def test_split_half_recall_compares_directions_and_not_lengths() -> None:
    a = np.eye(5, dtype=np.float32)
    assert split_half_recall(a, a * np.arange(1, 6, dtype=np.float32)[:, None]) == 1.0


def test_embeddings_that_cannot_be_compared_are_refused() -> None:
    good = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="NaN or infinite"):
        split_half_recall(good, good * np.nan)
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(2, 2\)"):
        split_half_recall(good, good[:, :2])
    with pytest.raises(ValueError, match="give two embeddings"):
        split_half_recall(good[:0], good[:0])


@given(CAPTIONS, st.integers(0, 999), st.sampled_from([2, 1000]), st.sets(st.integers(0, NUM_TAGS - 1)))
def test_a_group_is_ranked_as_if_the_other_hidden_tags_were_filtered(
    rows: list[list[int]], seed: int, num_levels: int, group: set[int]
) -> None:
    held_out = held_out_of(rows)
    table = table_of(held_out, seed, num_levels)
    is_asked = np.isin(np.arange(NUM_TAGS), list(group))
    ranks, hidden = ranks_of_group(rank_hidden(FixedScorer(table), [held_out])[0].ranks, held_out.hidden, is_asked)
    all_hidden, visible = rows_of(held_out.hidden), rows_of(held_out.visible)
    asked = [row for row, tags in enumerate(all_hidden) if group & set(tags)]
    alone = HeldOut(
        visible=held_out.visible[asked],
        hidden=captions_of([sorted(group & set(all_hidden[row])) for row in asked]),
        filtered=captions_of([sorted({*visible[row], *all_hidden[row]} - group) for row in asked]),
        post_index=held_out.post_index[asked],
    )
    alone.filtered.data[:] = 1
    assert rows_of(hidden) == rows_of(alone.hidden)
    assert len(ranks) == hidden.nnz
    if asked:
        found = mean_metrics(metrics_of_ranks(ranks, hidden, KS))
        # A visible tag of the group is filtered as well.
        filtered = alone.filtered.maximum(alone.visible).tocsr()
        alone = HeldOut(alone.visible, alone.hidden, filtered, alone.post_index)
        assert found == pytest.approx(metrics_slowly(table[asked], alone))


@given(CAPTIONS, st.integers(0, 999), st.integers(1, 4))
def test_the_visible_share_is_that_of_the_softmax(rows: list[list[int]], seed: int, chunk: int) -> None:
    held_out = held_out_of(rows)
    table = table_of(held_out, seed, 9)
    (ranked,) = rank_hidden(FixedScorer(table), [held_out], chunk)
    for scores, visible, share in zip(table, rows_of(held_out.visible), ranked.visible_share, strict=True):
        exponentials = np.exp(scores.astype(np.float64))
        assert share == pytest.approx(exponentials[visible].sum() / exponentials.sum())


def test_a_scorer_that_masks_what_it_was_shown_gives_it_no_probability() -> None:
    held_out = held_out_of([])
    table = np.zeros((1, NUM_TAGS), np.float32)
    table[0, held_out.visible.indices] = -np.inf
    assert rank_hidden(FixedScorer(table), [held_out])[0].visible_share.tolist() == [0.0]
