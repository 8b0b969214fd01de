"""A vocabulary with unknown tokens: they are inputs of the model, but no completions, neighbours or known tags."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.results import UnknownTagsWarning
from booru_embed_core.schema import UNKNOWN_TAGS, Category
from booru_embed_core.settings import VocabSettings
from booru_embed_core.training.loop import train
from tests.core.export_helpers import walk
from tests.core.model_helpers import Trained, model_settings, training_settings

CATS = "1girl cat_ears tail"


@pytest.fixture(scope="module")
def with_unknown(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> BooruEmbedder:
    """An embedder whose vocabulary has an unknown token for each category; trained for one epoch."""
    base = tmp_path_factory.mktemp("unknown")
    walked = walk(trained.corpus.export, base, VocabSettings(keep_percentile=100, unpopular="unk"))
    for name in ("work", "checkpoint"):
        (base / name).mkdir()
    settings = training_settings(num_epochs=1)
    train(walked.packed_path, walked.vocab_dir, base / "work", base / "checkpoint", model_settings(), settings)
    return BooruEmbedder.load(base / "checkpoint", "cpu", "fp32")


def test_unknown_tokens_are_never_offered(with_unknown: BooruEmbedder) -> None:
    vocab = with_unknown.vocab
    known = {tag for tag in vocab.tags if tag not in UNKNOWN_TAGS.values()}
    assert len(known) == vocab.num_tags - 5
    with torch.no_grad():
        with_unknown.network.model.tag_bias[torch.from_numpy(vocab.is_unknown)] = 100
    found = with_unknown.complete(CATS, k=vocab.num_tags)
    assert {one.tag for one in found} == known - set(CATS.split())
    assert sum(one.probability for one in found) == pytest.approx(1, abs=1e-5)
    assert {one.tag for one in with_unknown.similar_tags("tail", k=vocab.num_tags)} == known - {"tail"}
    for category in Category:
        assert {one.tag for one in with_unknown.complete("", k=99, category=category)} == known & set(
            vocab.tags_of(category)
        )


def test_an_unknown_tag_is_still_named_and_left_out(with_unknown: BooruEmbedder) -> None:
    with pytest.warns(UnknownTagsWarning, match="unknown_artist; left out"):
        vector = with_unknown.embed("tail, unknown artist")
    assert np.array_equal(vector, with_unknown.embed("tail"))
