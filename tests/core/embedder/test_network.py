"""Sets of tags, and what every network keeps to, whatever computes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from booru_embed_core.embedder.network import Network, TagSets
from booru_embed_core.embedder.numpy_network import NumpyNetwork
from booru_embed_core.embedder.onnx_network import OnnxNetwork
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.export.formats import CheckpointSource, export
from booru_embed_core.schema import ExportFormat
from booru_embed_core.training.checkpoint_config import read_config
from tests.core.model_helpers import Trained
from tests.core.network_helpers import some_sets, some_weights


@pytest.fixture(scope="module", params=["numpy", "torch", "onnx"])
def network(request: pytest.FixtureRequest, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Network:
    source = CheckpointSource.open(trained.checkpoint)
    if request.param == "torch":
        return TorchNetwork(source.model)
    if request.param == "numpy":
        return NumpyNetwork.load(trained.checkpoint, source.config)
    folder: Path = tmp_path_factory.mktemp("networks") / "onnx"
    export(ExportFormat.ONNX, source, folder)
    return OnnxNetwork.load(folder, read_config(folder), "cpu", "fp32")


def reordered(sets: TagSets, order: np.ndarray) -> TagSets:
    """The sets of `sets` in another order, the tags of each backwards."""
    rows = np.split(np.arange(len(sets.tags)), np.cumsum(sets.lengths)[:-1])
    tokens = np.concatenate([rows[row][::-1] for row in order])
    metadata = (sets.ratings[order], sets.score_bins[order])
    return TagSets(sets.tags[tokens], sets.lengths[order], *metadata, sets.tag_weights()[tokens])


@pytest.mark.parametrize("weighted", [False, True])
def test_neither_the_order_of_tags_nor_the_other_sets_matter(
    network: Network, trained: Trained, weighted: bool
) -> None:
    sets = some_sets(30, trained.corpus.vocab.num_tags)
    if weighted:
        sets = replace(sets, weights=some_weights(len(sets.tags)))
    order = np.random.default_rng(2).permutation(30)
    other = reordered(sets, order)
    assert network.embeddings(other) == pytest.approx(network.embeddings(sets)[order], abs=1e-5)
    assert network.tag_scores(other) == pytest.approx(network.tag_scores(sets)[order], abs=1e-4)


def test_no_sets_give_no_rows(network: Network, trained: Trained) -> None:
    none = TagSets.without_metadata(np.empty(0, np.int64), np.empty(0, np.int64))
    assert network.embeddings(none).shape == (0, 16)
    assert network.tag_scores(none).shape == (0, trained.corpus.vocab.num_tags)
    states, cu_seqlens = network.token_states(none)
    assert (states.shape, cu_seqlens.tolist()) == ((0, 32), [0])


def test_concatenated_sets_are_read_as_each_batch_alone(network: Network, trained: Trained) -> None:
    batches = [some_sets(num, trained.corpus.vocab.num_tags, seed) for seed, num in enumerate((1, 5, 0, 3))]
    together = TagSets.concatenate(batches)
    assert len(together.lengths) == 9
    expected = np.concatenate([network.embeddings(batch) for batch in batches])
    assert network.embeddings(together) == pytest.approx(expected, abs=1e-5)
    assert together.weights is None
    batches[1] = replace(batches[1], weights=some_weights(len(batches[1].tags)))
    together = TagSets.concatenate(batches)
    expected = np.concatenate([network.embeddings(batch) for batch in batches])
    assert network.embeddings(together) == pytest.approx(expected, abs=1e-5)


def test_sets_without_metadata_have_neither_rating_nor_score() -> None:
    sets = TagSets.without_metadata(np.array([1, 2, 3]), np.array([1, 0, 2]))
    assert sets.ratings.tolist() == sets.score_bins.tolist() == [-1, -1, -1]
