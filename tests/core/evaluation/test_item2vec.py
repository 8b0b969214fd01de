"""Skip-gram vectors: captions are shuffled deterministically, and scores follow the formula."""

from __future__ import annotations

import numpy as np
import pytest

from booru_embed_core.evaluation.baselines import EmbeddingScorer
from booru_embed_core.evaluation.item2vec import Item2Vec, ShuffledCaptions, is_installed, train_item2vec
from booru_embed_core.tokens.cooccurrence import count_cooccurrence
from tests.core.evaluation.evaluation_helpers import NUM_TAGS, captions_of, rows_of, topic_rows

ROWS = topic_rows(300, NUM_TAGS, seed=1)
TRAIN = captions_of(ROWS)
PAIRS = count_cooccurrence(TRAIN, 100)
VISIBLE = captions_of([[0, 3], [1], [2, 4, 8], []])

needs_gensim = pytest.mark.skipif(not is_installed(), reason="gensim is missing; install the extra item2vec")


def test_each_reading_has_the_tags_of_each_caption_in_another_order() -> None:
    captions = ShuffledCaptions(TRAIN, seed=3)
    first, second = list(captions), list(captions)
    assert first != second
    for reading in (first, second):
        assert [sorted(map(int, words)) for words in reading] == rows_of(TRAIN)
    assert [list(ShuffledCaptions(TRAIN, seed=3)), first] == [first, first]
    assert list(ShuffledCaptions(TRAIN, seed=4)) != first


def test_scores_are_the_damped_products_beside_the_log_prior() -> None:
    numbers = np.random.default_rng(5)
    inputs, outputs = numbers.normal(size=(2, NUM_TAGS, 4)).astype(np.float32)
    model = Item2Vec(PAIRS, inputs, outputs)
    centre = np.concatenate([inputs[row] for row in ROWS]).mean(axis=0)
    scorer, cosine = model.scorer(0.3), model.cosine_scorer()
    assert isinstance(scorer, EmbeddingScorer)
    unit = (inputs - centre) / np.linalg.norm(inputs - centre, axis=1, keepdims=True)
    for row, visible in enumerate(rows_of(VISIBLE)):
        summed = (inputs[visible] - centre).sum(axis=0)
        expected = np.log(PAIRS.shares) + 0.3 * outputs @ summed
        assert scorer.scores(VISIBLE)[row] == pytest.approx(expected, abs=1e-4)
        assert cosine.scores(VISIBLE)[row] == pytest.approx(unit @ unit[visible].sum(axis=0), abs=1e-4)


@needs_gensim
def test_training_is_the_same_every_time() -> None:
    first, second = (train_item2vec(PAIRS, TRAIN, dim=8, num_epochs=2) for _ in range(2))
    assert first.inputs.shape == first.outputs.shape == (NUM_TAGS, 8)
    assert np.array_equal(first.inputs, second.inputs)
    assert np.array_equal(first.outputs, second.outputs)
    assert np.isfinite(first.scorer(0.3).scores(VISIBLE)).all()


@needs_gensim
def test_tags_that_are_never_used_have_zero_vectors() -> None:
    train = captions_of([[0, 1, 2], [1, 2], [0, 2]])
    model = train_item2vec(count_cooccurrence(train, 100), train, dim=4, num_epochs=1)
    assert model.outputs.shape == (NUM_TAGS, 4)
    assert not model.outputs[3:].any()
    assert np.isfinite(model.cosine_scorer().scores(VISIBLE)).all()
