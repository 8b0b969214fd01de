"""The network by numpy computes what the network by torch does, and refuses the same files."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from booru_embed_core.embedder.backend import load_light_network
from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.numpy_network import NumpyNetwork
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.training.checkpoint import load_checkpoint, save_checkpoint
from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE, CheckpointError, read_config, write_config
from tests.core.model_helpers import Trained, encoder
from tests.core.network_helpers import some_sets, some_weights, unseal


@pytest.mark.parametrize("trunk", ["attention", "deepsets"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_numbers_are_those_of_torch(trained: Trained, tmp_path: Path, trunk: str, is_weighted: bool) -> None:
    _, config, vocab = load_checkpoint(trained.checkpoint)
    settings = config.model.model_copy(update={"trunk": trunk, "feed_forward_first": is_weighted})
    model = encoder(config.category_sizes, **settings.model_dump())
    with torch.no_grad():
        for weight in model.parameters():  # none of them at the zeros of its start
            weight += 0.1 * torch.randn(weight.shape)
    save_checkpoint(tmp_path, model, config.model_copy(update={"model": settings}), trained.checkpoint)
    network = load_light_network(tmp_path, read_config(tmp_path))
    assert isinstance(network, NumpyNetwork)
    sets, expected = some_sets(20, vocab.num_tags), TorchNetwork(model.eval(), torch.float32)
    if is_weighted:
        sets = replace(sets, weights=some_weights(len(sets.tags)))
    for one in (network, pickle.loads(pickle.dumps(network))):
        np.testing.assert_allclose(one.embeddings(sets), expected.embeddings(sets), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(one.tag_scores(sets), expected.tag_scores(sets), rtol=1e-3, atol=1e-4)
        (states, offsets), (theirs, their_offsets) = one.token_states(sets), expected.token_states(sets)
        np.testing.assert_allclose(states, theirs, rtol=1e-3, atol=1e-4)
        assert np.array_equal(offsets, their_offsets)


def test_neither_the_order_of_tags_nor_other_sets_matter(trained: Trained) -> None:
    network = NumpyNetwork.load(trained.checkpoint, read_config(trained.checkpoint))
    sets = TagSets.without_metadata(np.array([7, 2, 5, 5, 7, 2]), np.array([3, 3]))
    first, second = network.tag_scores(sets)
    alone = network.tag_scores(TagSets.without_metadata(np.array([2, 7, 5]), np.array([3])))[0]
    assert np.array_equal(first, second)
    assert np.array_equal(first, alone)


def test_weights_without_a_checksum_are_left_to_torch(trained: Trained, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.checkpoint, tmp_path / "copy")
    unseal(folder)
    assert isinstance(load_light_network(folder, read_config(folder)), TorchNetwork)


def rewritten(trained: Trained, tmp_path: Path, **changes: torch.Tensor | None) -> Path:
    """A checkpoint whose weights were changed, and sealed again."""
    folder = shutil.copytree(trained.checkpoint, tmp_path / "copy")
    config, file = read_config(folder), folder / WEIGHTS_FILE
    weights = {name: tensor for name, tensor in load_file(file).items() if changes.get(name, tensor) is not None}
    save_file({**weights, **{name: given for name, given in changes.items() if given is not None}}, file)
    write_config(folder, config, [WEIGHTS_FILE])
    return folder


def test_damaged_weights_end_in_one_line(trained: Trained, tmp_path: Path) -> None:
    bias = load_file(trained.checkpoint / WEIGHTS_FILE)["tag_bias"]
    spoilt = bias.clone()
    spoilt[3] = torch.nan
    cases: list[tuple[dict[str, torch.Tensor | None], str]] = [
        ({"tag_bias": bias[:-1].clone()}, "not this model's weights"),
        ({"bottleneck.weight": None}, "not this model's weights"),
        ({"bottleneck.weight": torch.zeros(2, 3)}, "not this model's weights"),
        ({"tag_bias": bias.half()}, "not this model's weights .a tensor of F16 instead of F32."),
        ({"tag_bias": spoilt}, "has weights that are NaN or infinite"),
    ]
    for number, (changes, message) in enumerate(cases):
        folder = rewritten(trained, tmp_path / str(number), **changes)
        with pytest.raises(CheckpointError, match=rf"{WEIGHTS_FILE}: {message}.*; materialize the checkpoint again"):
            NumpyNetwork.load(folder, read_config(folder))
    (folder / WEIGHTS_FILE).write_bytes(b"changed")
    with pytest.raises(CheckpointError, match="was changed: its SHA-256 is not that in"):
        NumpyNetwork.load(folder, read_config(folder))
