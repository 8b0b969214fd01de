"""Chooses the network's backend by the files of a checkpoint, and imports only that one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from booru_embed_core.embedder.network import Network

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.training.checkpoint_config import CheckpointConfig


def find_and_read(checkpoint: Path | str) -> tuple[Path, CheckpointConfig, Vocab]:
    """The folder of a checkpoint that `find_checkpoint` takes, its config and its vocabulary.

    Raises:
        CheckpointError: there is none, or it is damaged.
        VocabError: its vocabulary is damaged.
    """
    from booru_embed_core.embedder.locate import find_checkpoint
    from booru_embed_core.training.checkpoint_config import read_checkpoint

    folder = find_checkpoint(checkpoint)
    return folder, *read_checkpoint(folder)


def load_network(checkpoint_dir: Path, config: CheckpointConfig, device: str, precision: str) -> Network:
    """The network by onnxruntime if the folder holds ONNX files, else by torch.

    Raises:
        ValueError: the backend is not installed, or has no such device or precision.
    """
    is_onnx = (checkpoint_dir / "model.onnx").exists()
    package, extra = ("onnxruntime", "onnx") if is_onnx else ("torch", "torch")
    if find_spec(package) is None:
        raise ValueError(f"{checkpoint_dir}: {package} is not installed; install booru-embed[{extra}]")
    if is_onnx:
        from booru_embed_core.embedder.onnx_network import OnnxNetwork

        return OnnxNetwork.load(checkpoint_dir, config, device, precision)
    if precision == "int8":
        raise ValueError(f"{checkpoint_dir}: precision 'int8' is for a folder that `booru-embed export onnx` wrote")
    from booru_embed_core.embedder.torch_network import TorchNetwork

    return TorchNetwork.load(checkpoint_dir, config, device, precision)


def load_light_network(checkpoint_dir: Path, config: CheckpointConfig) -> Network:
    """The network for a few captions, on the CPU: by numpy in float32, which is ready before torch is imported.

    A folder of ONNX files takes onnxruntime. Checkpoints of older builds, whose weights have no checksum, take torch,
    which looks at each of them.

    Raises:
        CheckpointError: the weights are missing, damaged, or of another vocabulary.
        ValueError: a package that is needed is not installed.
    """
    if (checkpoint_dir / "model.onnx").exists() or config.files is None:
        return load_network(checkpoint_dir, config, "auto", "auto")
    from booru_embed_core.embedder.numpy_network import NumpyNetwork

    return NumpyNetwork.load(checkpoint_dir, config)
