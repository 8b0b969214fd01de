"""The graphs compute what the network does, for any batch and length, and are valid to their own checker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.embedder.onnx_network import INT8_FILES
from booru_embed_core.export.onnx_graphs import rounded, write_onnx
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.inference import encode_sets, token_states
from booru_embed_core.model.objective import read_tokens
from tests.core.model_helpers import CATEGORY_SIZES, NUM_SPECIAL, encoder, random_captions

NUM_TAGS = sum(CATEGORY_SIZES)
SHAPES = [
    {},
    {"feed_forward_first": False},
    {"num_layers": 1},
    {"num_layers": 3, "num_heads": 4},
    {"trunk": "deepsets"},
]


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


def test_weights_are_an_input_that_may_be_left_out(written: tuple[SetEncoder, Path]) -> None:
    model, folder = written
    rows = random_captions(7, NUM_TAGS, seed=2)
    lengths, tags = np.array([len(row) for row in rows]), np.array([tag for row in rows for tag in row], dtype=np.int64)
    inputs = padded(rows, lengths.max() + 2)
    weights = np.random.default_rng(1).uniform(0.1, 3, inputs["input_ids"].shape).astype(np.float32)
    is_tag = inputs["attention_mask"].astype(bool)
    is_tag[:, 0] = False
    weights[~is_tag] = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (state,) = session.run(["state"], {**inputs, "weights": weights})
    expected = encode_sets(model, tags, lengths, weights=weights[is_tag]).numpy()
    assert state == pytest.approx(expected, abs=1e-5)
    assert np.abs(state - session.run(["state"], inputs)[0]).max() > 1e-2
    weights[is_tag] = 0  # as if they were not there
    (state,) = session.run(["state"], {**inputs, "weights": weights})
    (empty,) = session.run(["state"], padded([[]] * 7, 1))
    assert state == pytest.approx(empty, abs=1e-5)


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
        onnx.checker.check_model(str(folder / INT8_FILES[name]), full_check=True)
        for file in (folder / name, folder / INT8_FILES[name]):
            session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
            assert session.get_modelmeta().custom_metadata_map["vocab_hash"] == "hash of a vocab"
        assert {tensor.data_type for tensor in onnx.load(folder / INT8_FILES[name]).graph.initializer} >= {
            onnx.TensorProto.INT8
        }


def test_int8_does_not_depend_on_the_batch(written: tuple[SetEncoder, Path]) -> None:
    _, folder = written
    rows = random_captions(30, NUM_TAGS, seed=5)
    for name, inputs, output in (
        ("model_int8.onnx", padded(rows, NUM_TAGS + 1), "embedding"),
        (
            "completion_int8.onnx",
            {"state": np.random.default_rng(1).normal(size=(30, 32)).astype(np.float32)},
            "logits",
        ),
    ):
        session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        (together,) = session.run([output], inputs)
        for row in range(30):
            one = {key: values[row : row + 1] for key, values in inputs.items()}
            assert session.run([output], one)[0][0] == pytest.approx(together[row], abs=2e-6)


@given(scale=st.floats(1e-6, 1e6), levels=st.sampled_from([63, 127]), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_rounded_row_is_within_half_a_step(scale: float, levels: int, seed: int) -> None:
    rows = (np.random.default_rng(seed).normal(size=(4, 9)) * scale).astype(np.float32)
    rows[2] = 0
    whole, scales = rounded(rows, levels)
    assert (whole.dtype, scales.dtype) == (np.int8, np.float32)
    assert np.abs(whole).max() == levels
    assert (np.abs(whole * scales[:, None] - rows).max(1) <= 0.51 * scales).all()
    assert not whole[2].any()


def test_int8_points_the_same_way(written: tuple[SetEncoder, Path]) -> None:
    _, folder = written
    exact, coarse = (
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"]).run(
            ["embedding"], padded(random_captions(50, NUM_TAGS, seed=3), NUM_TAGS + 1)
        )[0]
        for name in ("model.onnx", "model_int8.onnx")
    )
    assert not np.array_equal(exact, coarse)
    assert (exact * coarse).sum(1).min() > 0.99
