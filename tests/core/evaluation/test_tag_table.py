"""The table learns which tags co-occur, only from training captions, and deterministically."""

from __future__ import annotations

import numpy as np
import pytest

from booru_embed_core.evaluation.baselines import EmbeddingScorer, Popularity
from booru_embed_core.evaluation.metrics import evaluate_scorer
from booru_embed_core.evaluation.tag_table import TagTable
from booru_embed_core.evaluation.tasks import hold_out
from booru_embed_core.tokens.cooccurrence import count_cooccurrence
from tests.core.evaluation.evaluation_helpers import NUM_TAGS, captions_of, rows_of, topic_rows

TRAIN = captions_of(topic_rows(2000, NUM_TAGS, seed=1))
PAIRS = count_cooccurrence(TRAIN, 100)
VISIBLE = captions_of([[0, 3], [1], [2, 4, 8], []])


def test_every_epoch_is_yielded_and_changes_the_table() -> None:
    table = TagTable(PAIRS, TRAIN, dim=6, num_epochs=3)
    found = {epoch: table.scorer("product").vectors for epoch in table.epochs()}
    assert list(found) == [1, 2, 3]
    assert not np.array_equal(found[1], found[2])  # and a scorer keeps the table as it was


def test_captions_and_answers_come_from_one_table() -> None:
    table = TagTable(PAIRS, TRAIN, dim=6, num_epochs=1)
    list(table.epochs())
    scorer, cosine = table.scorer("product"), table.scorer("cosine")
    assert scorer.name == "tag_table"
    assert isinstance(scorer, EmbeddingScorer)
    for row, visible in enumerate(rows_of(VISIBLE)):
        summed = scorer.vectors[visible].sum(axis=0)
        assert scorer.scores(VISIBLE)[row] == pytest.approx(scorer.vectors @ summed, abs=1e-5)
        lengths = np.linalg.norm(scorer.vectors, axis=1)
        assert cosine.scores(VISIBLE)[row] == pytest.approx(scorer.vectors @ summed / lengths, abs=1e-4)


def test_training_is_the_same_every_time() -> None:
    first, second = (TagTable(PAIRS, TRAIN, dim=6, num_epochs=2) for _ in range(2))
    for table in (first, second):
        list(table.epochs())
    assert np.array_equal(first.scorer("product").vectors, second.scorer("product").vectors)


def test_what_is_learned_holds_on_other_posts() -> None:
    asked = hold_out(captions_of(topic_rows(300, NUM_TAGS, seed=2)), np.arange(300), "one", 7)
    table = TagTable(PAIRS, TRAIN, dim=6, num_epochs=8)
    list(table.epochs())
    assert (
        evaluate_scorer(table.scorer("product"), asked)["mrr"] > evaluate_scorer(Popularity(PAIRS), asked)["mrr"] + 0.05
    )


def test_posts_without_two_tags_teach_nothing_and_break_nothing() -> None:
    train = captions_of([[0], [], [5]])
    table = TagTable(count_cooccurrence(train, 100), train, dim=4, num_epochs=2)
    before = table.scorer("product").vectors
    assert list(table.epochs()) == [1, 2]
    assert np.array_equal(table.scorer("product").vectors, before)


def test_tags_beyond_the_limit_rank_below_by_popularity() -> None:
    limited = count_cooccurrence(TRAIN, max_tags=5)
    table = TagTable(limited, TRAIN, dim=4, num_epochs=1)
    list(table.epochs())
    scores = table.scorer("cosine").scores(VISIBLE)
    others = np.setdiff1d(np.arange(NUM_TAGS), limited.fitted)
    assert scores.shape == (4, NUM_TAGS)
    assert np.all(scores[:, others].max(axis=1) < scores[:, limited.fitted].min(axis=1))
