"""Chooses the network's backend by the files of a checkpoint, and imports only that one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from booru_embed_core.embedder.network import Network

if TYPE_CHECKING:
    from booru_embed_core.training.checkpoint_config import CheckpointConfig


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
