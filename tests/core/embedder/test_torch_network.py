"""The network by torch is the encoder of the checkpoint: its sets alone decide what it returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.torch_network import _FP16_ENGINES, TorchNetwork
from booru_embed_core.model.inference import encode_sets
from booru_embed_core.training.checkpoint_config import read_config
from tests.core.model_helpers import Trained
from tests.core.network_helpers import some_sets


def load(trained: Trained, precision: str = "fp32") -> TorchNetwork:
    return TorchNetwork.load(trained.checkpoint, read_config(trained.checkpoint), "cpu", precision)


@pytest.fixture(scope="module")
def network(trained: Trained) -> TorchNetwork:
    return load(trained)


@pytest.mark.parametrize("num", [0, 1, 40])
def test_embeddings_and_scores_are_those_of_the_encoder(network: TorchNetwork, num: int) -> None:
    sets, model = some_sets(num, network.model.config.num_tags), network.model
    with torch.inference_mode():
        pooled = encode_sets(model, sets.tags, sets.lengths, sets.ratings, sets.score_bins)
        embeddings, state = model.embed(pooled).numpy(), model.complete(pooled)
        scores = (state @ model.tag_vectors().T + model.tag_bias).numpy()
    assert np.array_equal(network.embeddings(sets), embeddings)
    np.testing.assert_allclose(network.tag_scores(sets), scores, rtol=1e-4, atol=1e-5)
    assert network.embeddings(sets).shape == (num, model.config.settings.embedding_dim)
    assert network.tag_scores(sets).shape == (num, model.config.num_tags)


def test_the_scores_are_the_callers_to_change(network: TorchNetwork) -> None:
    sets = some_sets(3, network.model.config.num_tags)
    first = network.tag_scores(sets)
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(network.tag_scores(sets), kept)


def test_each_set_has_a_state_for_summary_rating_score_and_tags(network: TorchNetwork) -> None:
    sets = some_sets(40, network.model.config.num_tags)
    states, cu_seqlens = network.token_states(sets)
    expected = 1 + (sets.ratings >= 0) + (sets.score_bins >= 0) + sets.lengths
    assert np.diff(cu_seqlens).tolist() == expected.tolist()
    assert states.shape == (cu_seqlens[-1], network.model.config.settings.width)
    assert (states.dtype, cu_seqlens.dtype) == (np.float32, np.int32)


def test_a_rating_and_a_score_are_given_to_the_model(network: TorchNetwork) -> None:
    tags, lengths = np.array([3, 5]), np.array([2])
    found = [
        network.embeddings(TagSets(tags, lengths, np.array([rating]), np.array([score])))
        for rating, score in ((-1, -1), (0, -1), (3, -1), (3, 9))
    ]
    assert len({one.tobytes() for one in found}) == 4
    assert np.array_equal(network.embeddings(TagSets.without_metadata(tags, lengths)), found[0])


@pytest.mark.skipif(torch.backends.quantized.engine not in _FP16_ENGINES, reason="torch multiplies by float32 here")
def test_scores_of_half_precision_are_those_of_float32_to_three_digits(
    trained: Trained,
) -> None:
    network = load(trained, "bf16")
    sets = some_sets(40, network.model.config.num_tags)
    found, model = network.tag_scores(sets), network.model
    with torch.inference_mode():
        states = model.complete(network._pooled(sets))
        expected = (states @ model.tag_vectors().T + model.tag_bias).numpy()
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_pages_of_weights_are_given_back_once_many_tags_were_read(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load(trained)
    given_back: list[int] = []
    assert network._mapped is not None
    monkeypatch.setattr(network._mapped, "give_back", lambda: given_back.append(1))
    monkeypatch.setattr("booru_embed_core.embedder.torch_network._MANY_TAGS", 5)
    three = TagSets.without_metadata(np.array([3, 5, 7]), np.array([3]))
    counts = []
    for _ in range(4):
        network.embeddings(three)
        counts.append(len(given_back))
    assert counts == [0, 1, 1, 2]
