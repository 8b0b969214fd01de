"""Mapped weights are those of the file; what is read can be given back, and what is written stays in the process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from booru_embed_core.training import mapped_weights
from booru_embed_core.training.checkpoint import load_mapped, load_model
from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE, read_config
from booru_embed_core.training.mapped_weights import MappedWeights
from tests.core.model_helpers import Trained
from tests.core.training.training_helpers import refused


def test_the_mapped_model_is_the_loaded_one(trained: Trained) -> None:
    config = read_config(trained.checkpoint)
    model, weights = load_mapped(trained.checkpoint, config)
    assert not model.training
    found, expected = model.state_dict(), load_model(trained.checkpoint, config).state_dict()
    weights.give_back()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_is_written_stays_in_the_process(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3)}, file)
    before = file.read_bytes()
    MappedWeights(file).arrays["a"][:] = 2
    assert file.read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_none_is_found_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: float, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(mapped_weights, "_BLOCK", 4)
    file = tmp_path / "a.safetensors"
    for place in (0, 3, 4, 9):
        spoilt = torch.full((5, 2), -60_000, dtype=dtype)
        spoilt.view(-1)[place] = number
        save_file({"a": torch.zeros(9), "b": spoilt, "empty": torch.empty(0)}, file)
        assert MappedWeights(file).spoilt() == "b"
    whole = {
        "a": torch.zeros(9),
        "b": torch.full((9,), 65_504, dtype=dtype),
        "c": torch.full((9,), -128).to(torch.int8),
    }
    save_file(whole, file)
    assert MappedWeights(file).spoilt() == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\xff" * 8 + b"{}", (2).to_bytes(8, "little") + b"[]", (2).to_bytes(8, "little") + b"\xff\xff"]
    + [
        len(header).to_bytes(8, "little") + header
        for header in (b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', b'{"a":3}', b'{"a":{"dtype":"F32"}}')
    ],
)
def test_what_is_no_file_of_weights_ends_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / WEIGHTS_FILE
    file.write_bytes(content)
    message = refused(lambda: MappedWeights(file))
    assert message.startswith(f"{file}: not this model's weights (")
    assert message.endswith("; materialize the checkpoint again")
    assert "\n" not in message


def test_arrays_have_the_shapes_and_numbers_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([7.0])}, file, metadata={"of": "x"})
    arrays, expected = MappedWeights(file).arrays, load_file(file)
    assert arrays.keys() == expected.keys()
    assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in expected.items())
