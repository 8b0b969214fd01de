"""The graphs compute what the network does, for any batch and length, and are valid to their own checker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from booru_embed_core.export.onnx_graphs import write_onnx
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.inference import encode_sets, token_states
from booru_embed_core.model.objective import read_tokens
from tests.core.model_helpers import CATEGORY_SIZES, NUM_SPECIAL, encoder, random_captions

NUM_TAGS = sum(CATEGORY_SIZES)
SHAPES = [{}, {"num_layers": 1}, {"num_layers": 3, "num_heads": 4}, {"trunk": "deepsets"}]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SetEncoder, Path]:
    """A network, and the folder with its graphs."""
    model, folder = encoder(**request.param), tmp_path_factory.mktemp("onnx")
    write_onnx(model, "hash of a vocab", folder)
    return model, folder


def padded(rows: list[list[int]], length: int) -> dict[str, Any]:
    """Tag indices of each caption as the graph reads them."""
    ids = np.zeros((len(rows), length), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tags in enumerate(rows):
        ids[row, : len(tags) + 1] = [2, *(tag + NUM_SPECIAL for tag in tags)]
        mask[row, : len(tags) + 1] = 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("num", [1, 7])
@pytest.mark.parametrize("extra", [0, 5])
def test_onnxruntime_gives_the_networks_numbers(written: tuple[SetEncoder, Path], num: int, extra: int) -> None:
    model, folder = written
    rows = random_captions(num, NUM_TAGS, seed=num)
    lengths = np.array([len(tags) for tags in rows])
    tags = np.array([tag for row in rows for tag in row], dtype=np.int64)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    given = padded(rows, lengths.max() + 1 + extra)
    hidden_states, state, embedding = session.run(["hidden_states", "state", "embedding"], given)
    pooled = encode_sets(model, tags, lengths)
    assert state == pytest.approx(pooled.numpy(), abs=1e-5)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model.embed(pooled), dim=-1)
        logits = model.tag_scores(model.complete(pooled))
    assert embedding == pytest.approx(expected.numpy(), abs=1e-5)
    owners = torch.from_numpy(np.repeat(np.arange(num), lengths))
    every = token_states(model, *read_tokens(torch.from_numpy(tags), owners, num, NUM_SPECIAL, None, None))
    is_token = given["attention_mask"].astype(bool)
    assert hidden_states[is_token] == pytest.approx(every.numpy(), abs=1e-5)
    assert not hidden_states[~is_token].any()
    session = onnxruntime.InferenceSession(folder / "completion.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"state": state})
    assert found == pytest.approx(logits.numpy(), abs=1e-5)


def test_padding_is_of_no_account(written: tuple[SetEncoder, Path]) -> None:
    _, folder = written
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    given = padded([[0, 3, 5]], 9)
    given["input_ids"][0, 4:] = NUM_SPECIAL + 7
    (odd,) = session.run(["embedding"], given)
    (plain,) = session.run(["embedding"], padded([[0, 3, 5]], 4))
    assert odd == pytest.approx(plain, abs=1e-6)


def test_the_files_are_valid_and_name_their_vocabulary(written: tuple[SetEncoder, Path]) -> None:
    _, folder = written
    for name in ("model.onnx", "completion.onnx"):
        onnx.checker.check_model(str(folder / name), full_check=True)
        rounded = folder / name.replace(".onnx", "_int8.onnx")
        for file in (folder / name, rounded):
            session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
            assert session.get_modelmeta().custom_metadata_map["vocab_hash"] == "hash of a vocab"
        assert {tensor.data_type for tensor in onnx.load(rounded).graph.initializer} >= {onnx.TensorProto.INT8}


def test_int8_points_the_same_way(written: tuple[SetEncoder, Path]) -> None:
    _, folder = written
    exact, rounded = (
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"]).run(
            ["embedding"], padded(random_captions(50, NUM_TAGS, seed=3), NUM_TAGS + 1)
        )[0]
        for name in ("model.onnx", "model_int8.onnx")
    )
    assert not np.array_equal(exact, rounded)
    assert (exact * rounded).sum(1).mean() > 0.99
