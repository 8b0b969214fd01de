"""Chooses what computes a checkpoint's network: by its files, by what is installed, and by what is asked."""

from __future__ import annotations

import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from booru_embed_core.embedder.network import Network

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.training.checkpoint_config import CheckpointConfig

Backend: TypeAlias = Literal["auto", "numpy", "torch", "onnx"]
BACKENDS: Final = ("auto", "numpy", "torch", "onnx")
PRECISIONS: Final = ("auto", "fp32", "bf16", "int8")
MANY_CAPTIONS: Final = 10**9
"""For callers that answer for hours: whatever takes longest to load pays."""
_ONNX_FILE: Final = "model.onnx"


class Choice(NamedTuple):
    """What computes, and why.

    Attributes:
        backend: ``numpy``, ``torch`` or ``onnx``; or ``auto``, numpy until a large call makes torch pay.
        reason: a part of a sentence, for people.
    """

    backend: Backend
    reason: str


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


def choose(
    checkpoint_dir: Path,
    config: CheckpointConfig,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    num_captions: int | None = None,
) -> Choice:
    """What computes the network; arguments as in `BooruEmbedder.load`.

    Raises:
        ValueError: the backend is not installed, cannot read the checkpoint, or has no such device or precision.
    """
    _check_values(precision, backend, num_captions)
    is_onnx = (checkpoint_dir / _ONNX_FILE).exists()
    if is_onnx != (backend == "onnx") and (is_onnx or backend == "onnx") and backend != "auto":
        reads = "holds ONNX files, which onnxruntime reads" if is_onnx else "holds no ONNX files"
        raise ValueError(f'{checkpoint_dir}: {reads}; leave backend = "{backend}" out')
    if is_onnx:
        _need(checkpoint_dir, "onnxruntime", "onnx")
        return Choice("onnx", "the folder holds ONNX files")
    if precision == "int8":
        raise ValueError(
            f"{checkpoint_dir}: precision 'int8' is for a folder that `booru-embed export onnx` wrote; a checkpoint of "
            "`booru-embed export light` needs none"
        )
    if backend == "numpy" and (precision == "bf16" or device == "cuda"):
        asked = f"precision '{precision}'" if precision == "bf16" else f'device "{device}"'
        raise ValueError(f"{checkpoint_dir}: {asked} needs torch; numpy computes in float32 on the CPU")
    if backend == "numpy":
        return Choice("numpy", "asked for")
    if backend == "torch" or precision == "bf16" or device == "cuda":
        _need(checkpoint_dir, "torch", "torch")
        return Choice("torch", "asked for" if backend == "torch" else f"{precision} on {device} needs it")
    return _by_work(config, num_captions)


def _by_work(config: CheckpointConfig, num_captions: int | None) -> Choice:
    """numpy or torch, by what is installed and by how many captions come."""
    from booru_embed_core.embedder.auto_network import pays_for

    if find_spec("torch") is None:
        return Choice("numpy", "torch is not installed")
    if config.files is None:
        return Choice("torch", "the checkpoint has no checksum, and torch looks at all weights soonest")
    if num_captions is not None and not pays_for(num_captions, config):
        return Choice("numpy", "so few captions take less time than importing torch")
    if num_captions is None and "torch" not in sys.modules:
        return Choice("auto", "numpy for a few captions; a call of many imports torch")
    reason = "it is imported already" if num_captions is None else "importing it pays for so many captions"
    return Choice("torch", f"{reason}; it takes a GPU if there is one")


def load_network(
    checkpoint_dir: Path,
    config: CheckpointConfig,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    num_captions: int | None = None,
) -> Network:
    """The network that `choose` chooses; arguments as in `BooruEmbedder.load`.

    Raises:
        CheckpointError: the weights are missing, damaged, or of another vocabulary.
        ValueError: as in `choose`.
    """
    chosen = choose(checkpoint_dir, config, device, precision, backend, num_captions).backend
    if chosen == "onnx":
        from booru_embed_core.embedder.onnx_network import OnnxNetwork

        return OnnxNetwork.load(checkpoint_dir, config, device, precision)
    by_torch = partial(load_torch_network, checkpoint_dir.absolute(), config, device, precision)
    if chosen == "torch":
        return by_torch()
    from booru_embed_core.embedder.numpy_network import NumpyNetwork

    network = NumpyNetwork.load(checkpoint_dir, config)
    if chosen == "numpy":
        return network
    from booru_embed_core.embedder.auto_network import AutoNetwork

    return AutoNetwork(network, config, by_torch)


def load_torch_network(checkpoint_dir: Path, config: CheckpointConfig, device: str, precision: str) -> Network:
    """The network by torch."""
    from booru_embed_core.embedder.torch_network import TorchNetwork

    return TorchNetwork.load(checkpoint_dir, config, device, precision)


def _check_values(precision: str, backend: str, num_captions: int | None) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    if num_captions is not None and num_captions < 1:
        raise ValueError(f"num_captions {num_captions} is below 1; leave it out if you do not know")


def _need(checkpoint_dir: Path, package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise ValueError(f"{checkpoint_dir}: {package} is not installed; install booru-embed[{extra}]")
