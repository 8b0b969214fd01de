"""numpy computes small calls; a large one, or several that add up, load torch once for all."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from booru_embed_core.embedder import auto_network
from booru_embed_core.embedder.auto_network import AutoNetwork
from booru_embed_core.embedder.backend import load_torch_network
from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.numpy_network import NumpyNetwork
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.training.checkpoint_config import read_config
from tests.core.model_helpers import Trained
from tests.core.network_helpers import some_sets

NUM_LOADED: list[Path] = []


def load_heavy(folder: Path) -> TorchNetwork:
    NUM_LOADED.append(folder)
    found = load_torch_network(folder, read_config(folder), "cpu", "fp32")
    assert isinstance(found, TorchNetwork)
    return found


@pytest.fixture
def network(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> AutoNetwork:
    """Torch pays after 3,000 tokens in calls of at least 100."""
    config = read_config(trained.checkpoint)
    found = AutoNetwork(NumpyNetwork.load(trained.checkpoint, config), config, partial(load_heavy, trained.checkpoint))
    monkeypatch.setattr(auto_network, "_LOAD_SECONDS", 3000.0)
    monkeypatch.setattr(auto_network, "_LOAD_SECONDS_OF_TAG", 0.0)
    monkeypatch.setattr(auto_network, "_SAVED_BY_TOKEN", 1 / auto_network.trunk_products(config.model))
    monkeypatch.setattr(auto_network, "_SAVED_BY_SCORE", 0.0)
    monkeypatch.setattr(auto_network, "_SMALL_TOKENS", 100)
    NUM_LOADED.clear()
    return found


def of_tokens(num: int) -> TagSets:
    """Sets of three tags, `num` tokens in all."""
    return TagSets.without_metadata(np.tile(np.array([2, 5, 9]), num // 4), np.full(num // 4, 3))


def test_small_calls_stay_with_numpy_however_many_they_are(network: AutoNetwork) -> None:
    for _ in range(40):
        network.embeddings(of_tokens(96))
    assert isinstance(network.current, NumpyNetwork)
    assert NUM_LOADED == []


def test_a_large_call_loads_torch_before_it_is_computed(network: AutoNetwork) -> None:
    network.token_states(of_tokens(3004))
    assert isinstance(network.current, TorchNetwork)
    network.tag_scores(of_tokens(3004))
    assert len(NUM_LOADED) == 1


def test_calls_add_up(network: AutoNetwork) -> None:
    for num_calls in range(1, 5):
        network.embeddings(of_tokens(1000))
        assert isinstance(network.current, NumpyNetwork if num_calls < 4 else TorchNetwork)


def test_what_is_expected_is_decided_at_once_and_counted_once(network: AutoNetwork) -> None:
    network.expect(2900)
    network.embeddings(of_tokens(2900))
    assert isinstance(network.current, NumpyNetwork)
    network.expect(200)
    assert isinstance(network.current, TorchNetwork)


def test_scores_of_many_tags_add_up(network: AutoNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_network, "_SAVED_BY_SCORE", 1000 / network._score_products)
    for num_calls in range(1, 5):
        network.tag_scores(of_tokens(4))
        assert isinstance(network.current, NumpyNetwork if num_calls < 4 else TorchNetwork)


def test_both_give_the_same_numbers_and_copies_too(network: AutoNetwork, trained: Trained) -> None:
    sets = some_sets(4, trained.corpus.vocab.num_tags)
    first = network.embeddings(sets), network.tag_scores(sets), network.token_states(sets)[0]
    early = pickle.loads(pickle.dumps(network))
    assert isinstance(early, AutoNetwork)
    network.embeddings(replace(of_tokens(3004)))
    late = pickle.loads(pickle.dumps(network))
    assert isinstance(late, TorchNetwork)
    for one in (network, early, late):
        found = one.embeddings(sets), one.tag_scores(sets), one.token_states(sets)[0]
        for numbers, expected in zip(found, first, strict=True):
            np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-5)
