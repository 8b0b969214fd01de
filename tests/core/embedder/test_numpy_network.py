"""The network by numpy computes what the network by torch does, and refuses the same files."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from booru_embed_core.embedder import numpy_network, numpy_trunk
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
    network = NumpyNetwork.load(tmp_path, read_config(tmp_path))
    sets, expected = some_sets(20, vocab.num_tags), TorchNetwork(model.eval(), torch.float32)
    if is_weighted:
        sets = replace(sets, weights=some_weights(len(sets.tags)))
    for one in (network, pickle.loads(pickle.dumps(network))):
        np.testing.assert_allclose(one.embeddings(sets), expected.embeddings(sets), rtol=1e-4, atol=1e-5)
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
    assert first == pytest.approx(alone, abs=1e-5)


def test_weights_without_a_checksum_are_all_looked_at(trained: Trained, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.checkpoint, tmp_path / "copy")
    unseal(folder)
    NumpyNetwork.load(folder, read_config(folder))
    weights = load_file(folder / WEIGHTS_FILE)
    weights["tokens.weight"][40, 3] = torch.inf
    save_file(weights, folder / WEIGHTS_FILE, metadata=metadata_of(trained))
    with pytest.raises(CheckpointError, match=r"tokens\.weight has weights that are NaN or infinite"):
        NumpyNetwork.load(folder, read_config(folder))


def metadata_of(trained: Trained) -> dict[str, str]:
    with safe_open(trained.checkpoint / WEIGHTS_FILE, framework="np") as weights:
        found: dict[str, str] = weights.metadata()
    return found


def rewritten(trained: Trained, tmp_path: Path, **changes: torch.Tensor | None) -> Path:
    """A checkpoint whose weights were changed, and sealed again."""
    folder = shutil.copytree(trained.checkpoint, tmp_path / "copy")
    config, file = read_config(folder), folder / WEIGHTS_FILE
    weights = {name: tensor for name, tensor in load_file(file).items() if changes.get(name, tensor) is not None}
    save_file(
        {**weights, **{name: given for name, given in changes.items() if given is not None}}, file, metadata_of(trained)
    )
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
        ({"tag_bias": bias.half()}, r"not this model's weights: tag_bias is F16 \[\d+\], not F32 \[\d+\]"),
        ({"tag_bias": bias.double()}, "not this model's weights .a tensor of F64 instead of F32, F16, I8."),
        ({"mine": bias}, r"not this model's weights: mine is F32 \[\d+\], not missing"),
        ({"tag_bias": spoilt}, "tag_bias has weights that are NaN or infinite"),
    ]
    for number, (changes, message) in enumerate(cases):
        folder = rewritten(trained, tmp_path / str(number), **changes)
        with pytest.raises(CheckpointError, match=rf"{WEIGHTS_FILE}: {message}.*; materialize the checkpoint again"):
            NumpyNetwork.load(folder, read_config(folder))
    (folder / WEIGHTS_FILE).write_bytes(b"changed")
    with pytest.raises(CheckpointError, match="was changed: its SHA-256 is not that in"):
        NumpyNetwork.load(folder, read_config(folder))


def test_tags_that_are_no_numbers_are_noticed_by_results(trained: Trained, tmp_path: Path) -> None:
    table = load_file(trained.checkpoint / WEIGHTS_FILE)["tokens.weight"].clone()
    table[30] = torch.nan
    folder = rewritten(trained, tmp_path, **{"tokens.weight": table})
    network = NumpyNetwork.load(folder, read_config(folder))
    one = TagSets.without_metadata(np.array([2]), np.array([1]))
    assert np.isfinite(network.embeddings(one)).all()
    with pytest.raises(CheckpointError, match=r"tokens\.weight has weights that are NaN or infinite"):
        network.tag_scores(one)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_size_of_parts_changes_nothing(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, is_weighted: bool
) -> None:
    sets = some_sets(60, trained.corpus.vocab.num_tags)
    if is_weighted:
        sets = replace(sets, weights=some_weights(len(sets.tags)))
    network = NumpyNetwork.load(trained.checkpoint, read_config(trained.checkpoint))
    whole = network.embeddings(sets), network.tag_scores(sets), network.token_states(sets)[0]
    monkeypatch.setattr(numpy_network, "_BATCH_TOKENS", 64)  # several parts, with tables of the first block
    monkeypatch.setattr(numpy_trunk, "_MAX_SCORES", 500)  # and parts of a caption's scores
    parts = network.embeddings(sets), network.tag_scores(sets), network.token_states(sets)[0]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
