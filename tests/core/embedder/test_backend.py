"""What computes a checkpoint: by its files, by what is installed and by what is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from booru_embed_core.embedder import backend
from booru_embed_core.embedder.auto_network import AutoNetwork, pays_for
from booru_embed_core.embedder.backend import MANY_CAPTIONS, choose, load_network
from booru_embed_core.embedder.numpy_network import NumpyNetwork
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.settings import ModelSettings
from booru_embed_core.training.checkpoint_config import CheckpointConfig, read_config
from tests.core.model_helpers import Trained
from tests.core.network_helpers import unseal


@pytest.fixture
def config(trained: Trained) -> CheckpointConfig:
    """The config of a network of usual size."""
    return read_config(trained.checkpoint).model_copy(update={"model": ModelSettings()})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which packages are installed and which are imported; only what chooses believes it."""

    def call(*names: str, imported: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(backend, "find_spec", lambda name: name if name in names else None)
        modules = {name: ModuleType(name) for name in imported}
        monkeypatch.setattr(backend, "sys", type("system", (), {"modules": modules}))

    return call


def test_auto_takes_what_is_fastest_of_what_is_installed(
    installed: Callable[..., None], config: CheckpointConfig, tmp_path: Path
) -> None:
    installed()
    assert {choose(tmp_path, config, num_captions=num).backend for num in (None, 1, MANY_CAPTIONS)} == {"numpy"}
    installed("torch")
    found = [choose(tmp_path, config, num_captions=num).backend for num in (None, 1, 1000, 100_000, MANY_CAPTIONS)]
    assert found == ["auto", "numpy", "numpy", "torch", "torch"]
    installed("torch", imported=("torch",))
    assert choose(tmp_path, config).backend == "torch"
    assert choose(tmp_path, config, num_captions=1).backend == "numpy"
    assert choose(tmp_path, config, "cuda").backend == choose(tmp_path, config, precision="bf16").backend == "torch"
    unsealed = config.model_copy(update={"files": None})
    assert choose(tmp_path, unsealed, num_captions=1).backend == "torch"
    (tmp_path / "model.onnx").touch()
    installed("torch", "onnxruntime")
    assert choose(tmp_path, config, num_captions=1).backend == "onnx"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"backend": "torch"}, "torch is not installed; install booru-embed[torch]"),
        ({"device": "cuda"}, "torch is not installed; install booru-embed[torch]"),
        ({"precision": "bf16"}, "torch is not installed; install booru-embed[torch]"),
        ({"backend": "numpy", "precision": "bf16"}, "precision 'bf16' needs torch; numpy computes in float32 on the"),
        ({"backend": "numpy", "device": "cuda"}, 'device "cuda" needs torch; numpy computes in float32 on the CPU'),
        ({"backend": "onnx"}, 'holds no ONNX files; leave backend = "onnx" out'),
        ({"precision": "int8"}, "precision 'int8' is for a folder that `booru-embed export onnx` wrote"),
        ({"precision": "fp8"}, "precision 'fp8' is not one of auto, fp32, bf16, int8"),
        ({"backend": "jax"}, "backend 'jax' is not one of auto, numpy, torch, onnx"),
        ({"num_captions": 0}, "num_captions 0 is below 1; leave it out if you do not know"),
    ],
)
def test_what_cannot_be_is_one_line(
    installed: Callable[..., None], config: CheckpointConfig, tmp_path: Path, asked: dict[str, object], message: str
) -> None:
    installed()
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("]", r"\]")) as error:
        choose(tmp_path, config, **asked)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_folder_of_onnx_files_needs_onnxruntime(
    installed: Callable[..., None], config: CheckpointConfig, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").touch()
    installed("torch")
    with pytest.raises(ValueError, match=r"onnxruntime is not installed; install booru-embed\[onnx\]"):
        choose(tmp_path, config)
    installed("torch", "onnxruntime")
    with pytest.raises(ValueError, match='holds ONNX files, which onnxruntime reads; leave backend = "torch" out'):
        choose(tmp_path, config, backend="torch")


def test_the_network_is_that_of_the_choice(trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = read_config(trained.checkpoint)
    assert isinstance(load_network(trained.checkpoint, config, backend="numpy"), NumpyNetwork)
    assert isinstance(load_network(trained.checkpoint, config, num_captions=1), NumpyNetwork)
    assert isinstance(load_network(trained.checkpoint, config), TorchNetwork)  # imported for these tests
    without = {name: module for name, module in sys.modules.items() if name != "torch"}
    monkeypatch.setattr(backend, "sys", type("system", (), {"modules": without}))
    assert isinstance(load_network(trained.checkpoint, config), AutoNetwork)


def test_more_captions_pay_and_wider_networks_pay_sooner(config: CheckpointConfig) -> None:
    wide = config.model_copy(update={"model": ModelSettings(width=512, ffn_width=1024)})
    least = [next(n for n in range(10**3, 10**6, 10**3) if pays_for(n, one)) for one in (config, wide)]
    assert least[0] > least[1] > 1000


def test_an_older_checkpoint_needs_no_torch(trained: Trained, tmp_path: Path) -> None:
    import shutil

    older = shutil.copytree(trained.checkpoint, tmp_path / "older")
    unseal(older)
    assert isinstance(load_network(older, read_config(older), backend="numpy"), NumpyNetwork)
