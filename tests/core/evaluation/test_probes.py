"""Linear probes: their metrics by hand, and their figures on posts whose tags determine rating and score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from booru_embed_core.evaluation.probes import CONSTANT_NAME, measure, run_probes
from booru_embed_core.evaluation.report import run_evaluation
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import CaptionMatrix
from booru_embed_core.tokens.packed_file import PackedFile
from tests.core.evaluation.evaluation_helpers import FixedScorer, topic_rows
from tests.core.in_memory_helpers import packed_of

NUM_TOPIC_TAGS, NUM_TAGS = 24, 32
LIKED = np.random.default_rng(4).random((600, NUM_TAGS - NUM_TOPIC_TAGS)) < 0.5
ROWS = [
    [*topics, *(NUM_TOPIC_TAGS + np.flatnonzero(liked)).tolist()]
    for topics, liked in zip(topic_rows(600, NUM_TOPIC_TAGS, seed=2), LIKED, strict=True)
]
"""Tags of topics, then tags without a topic."""
SETTINGS = EvaluationSettings(baselines=("popularity",), implied_min_count=5)
LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30)


class Counts:
    """Embeds a caption as its number of tags of each topic and without a topic, which determine all labels."""

    name = "counts"

    def scores(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        return np.zeros(visible.shape, np.float32)

    def embed(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        parts = [visible[:, topic:NUM_TOPIC_TAGS:3] for topic in range(3)] + [visible[:, NUM_TOPIC_TAGS:]]
        return np.stack([part.sum(axis=1).A1 for part in parts], axis=1).astype(np.float32)


class Silent(Counts):
    """Gives every caption the same vector."""

    name = "silent"

    def embed(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        return np.ones((visible.shape[0], 4), np.float32)


def labelled_posts(rows: list[list[int]] = ROWS) -> tuple[PackedFile, Vocab]:
    """Posts rated by their topic; the more tags without a topic, the higher the score."""
    packed, vocab = packed_of(rows, NUM_TAGS)
    counts = np.array(
        [[sum(tag % 3 == topic for tag in row if tag < NUM_TOPIC_TAGS) for topic in range(3)] for row in rows]
    )
    num_liked = np.array([sum(tag >= NUM_TOPIC_TAGS for tag in row) for row in rows])
    score = 10 * num_liked + np.random.default_rng(5).integers(0, 9, len(rows))
    return replace(packed, rating=counts.argmax(axis=1).astype(np.uint8), score=score.astype(np.int32)), vocab


@given(LABELS)
@settings(deadline=None)
def test_macro_f1_is_the_mean_over_the_labels_that_occur(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = np.array(pairs).T
    of_label = [
        2 * np.sum((predicted == label) & (labels == label)) / (np.sum(predicted == label) + np.sum(labels == label))
        for label in np.unique(labels)
    ]
    found = measure("rating", predicted.astype(np.float64), labels)
    assert found == pytest.approx({"accuracy": np.mean(predicted == labels), "macro_f1": np.mean(of_label)}, abs=1e-6)


@given(LABELS.filter(lambda pairs: len({label for _, label in pairs}) > 1))
@settings(deadline=None)
def test_r2_and_spearman_are_those_of_the_formulas(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = np.array(pairs, dtype=np.float64).T
    found = measure("score", predicted, labels.astype(np.int64))
    residual = np.square(predicted - labels).sum() / np.square(labels - labels.mean()).sum()
    assert found["r2"] == pytest.approx(1 - residual, abs=1e-6)
    ranks = [[np.mean(np.flatnonzero(np.sort(side) == value)) for value in side] for side in (predicted, labels)]
    wanted = np.corrcoef(*ranks)[0, 1] if np.ptp(predicted) else 0.0  # ties share their mean rank
    assert found["spearman"] == pytest.approx(wanted, abs=1e-6)


def test_a_vector_that_knows_beats_one_that_does_not() -> None:
    packed, vocab = labelled_posts()
    found = run_probes([Silent(), Counts()], packed, vocab, SETTINGS)
    assert list(found) == ["rating", "score"]
    for result in found.values():
        assert list(result.models) == ["silent", "counts", "ppmi_svd", CONSTANT_NAME]
        assert result.num_train == len(rows_of_split(packed, "train"))
        assert result.num_test == len(rows_of_split(packed, "test"))
    rating, score = found["rating"].models, found["score"].models
    assert rating["counts"]["accuracy"] > 0.95
    assert rating["counts"]["macro_f1"] > 0.95
    assert rating["silent"] == rating[CONSTANT_NAME]
    assert rating[CONSTANT_NAME]["accuracy"] < 0.5
    assert score["counts"]["r2"] > 0.5
    assert score["counts"]["spearman"] > 0.7
    assert score["silent"]["spearman"] == score[CONSTANT_NAME]["spearman"] == 0
    assert score["silent"]["r2"] == score[CONSTANT_NAME]["r2"] <= 0
    # PPMI-SVD sees the same tags and also learns the topics.
    assert rating["ppmi_svd"]["accuracy"] > 0.8
    assert found["rating"].chosen["ppmi_svd"]["dim"] == NUM_TAGS


def test_figures_are_the_same_every_time() -> None:
    packed, vocab = labelled_posts()
    lines: list[str] = []
    assert run_probes([Counts()], packed, vocab, SETTINGS) == run_probes(
        [Counts()], packed, vocab, SETTINGS, lines.append
    )
    assert [line.split(":")[0] for line in lines] == ["probed rating (accuracy)", "probed score (r2)"]


def test_test_posts_reach_no_fit() -> None:
    packed, vocab = labelled_posts()
    changed = list(ROWS)
    for row in rows_of_split(packed, "test"):
        changed[row] = [0, 1, 2]
    other = replace(labelled_posts(changed)[0], rating=packed.rating, score=packed.score)
    first, second = (run_probes([Counts()], file, vocab, SETTINGS) for file in (packed, other))
    for target, result in first.items():
        assert result.chosen == second[target].chosen
        assert result.models["counts"] != second[target].models["counts"]


def test_constant_targets_are_left_out() -> None:
    packed, vocab = labelled_posts()
    plain = packed_of(ROWS, NUM_TAGS)[0]
    lines: list[str] = []
    assert run_probes([Counts()], plain, vocab, SETTINGS, lines.append) == {}
    assert lines == ["no probe: rating and score are the same for all posts"]
    assert list(run_probes([Counts()], replace(packed, rating=plain.rating), vocab, SETTINGS)) == ["score"]
    # Scores that depend only on the rating are all in one decile of it.
    assert list(run_probes([Counts()], replace(packed, score=plain.score), vocab, SETTINGS)) == ["rating"]


def test_no_more_than_max_posts_of_a_split_are_read() -> None:
    packed, vocab = labelled_posts()
    found = run_probes([Counts()], packed, vocab, SETTINGS.model_copy(update={"max_posts": 50}))
    assert (found["rating"].num_train, found["rating"].num_test) == (50, 50)


def test_they_are_part_of_the_evaluation() -> None:
    packed, vocab = labelled_posts()
    evaluation = run_evaluation([Counts()], packed, vocab, SETTINGS)
    assert evaluation.probes == run_probes([Counts()], packed, vocab, SETTINGS)
    assert '"macro_f1": ' in evaluation.to_json()
    table = np.zeros((10_000, NUM_TAGS), np.float32)
    bare = run_evaluation([FixedScorer(table, "no_vectors")], packed, vocab, SETTINGS)
    assert list(bare.probes["rating"].models) == ["ppmi_svd", CONSTANT_NAME]
