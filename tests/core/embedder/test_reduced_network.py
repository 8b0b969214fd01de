"""A model that was trained without implied tags never sees one, whatever it is asked."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.reduced_network import ReducedNetwork
from booru_embed_core.tags.implications import Implications
from tests.core.model_helpers import Trained


@pytest.fixture(scope="module")
def embedders(trained: Trained) -> tuple[BooruEmbedder, BooruEmbedder]:
    """One that was trained with all tags, and one without those that the most used tag's successor implies."""
    plain = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
    implications = Implications.of_pairs(np.array([1]), np.array([0]), plain.vocab.num_tags)
    splits = plain.config.splits.model_copy(update={"drop_implied": True})
    config, vocab = plain.config.model_copy(update={"splits": splits}), replace(plain.vocab, implications=implications)
    return plain, BooruEmbedder(plain.network, config, vocab)


def test_a_caption_with_an_implied_tag_is_the_one_without(embedders: tuple[BooruEmbedder, BooruEmbedder]) -> None:
    plain, reduced = embedders
    effect, cause, other = plain.vocab.tags[:3]
    asked = [f"{effect}, {cause}, {other}", f"{effect}, {other}", ""]
    assert np.array_equal(reduced.embed(asked), plain.embed([f"{cause}, {other}", *asked[1:]]))
    states, ends = reduced.hidden_states(asked)
    assert np.diff(ends).tolist() == [3, 3, 1]
    assert len(states) == 7
    found = reduced.complete(f"{effect}, {cause}", k=3)
    assert not {one.tag for one in found} & {effect, cause}
    weighted = reduced.embed([{effect: 0.5, cause: 2.0, other: 1.0}])
    assert np.array_equal(weighted, plain.embed([{cause: 2.0, other: 1.0}]))


def test_it_is_wrapped_once(embedders: tuple[BooruEmbedder, BooruEmbedder]) -> None:
    plain, reduced = embedders
    assert not isinstance(plain.network, ReducedNetwork)
    again = pickle.loads(pickle.dumps(reduced))
    assert isinstance(again.network, ReducedNetwork)
    assert not isinstance(again.network.inner, ReducedNetwork)
