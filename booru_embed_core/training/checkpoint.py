"""Published checkpoints on disk. The states for resuming a training are in ``states``.

A published checkpoint holds everything that inference needs, and nothing executable: ``model.safetensors``
(float32 weights), ``config.json`` (shape, sizes, what it was trained on) and the vocabulary's files. Its sizes are
derived from the vocabulary and its ``vocab_hash`` must match, so ids cannot shift against the weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from booru_embed_core.errors import one_line
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.settings import ModelSettings
from booru_embed_core.tags.vocab import VOCAB_FILES, Vocab
from booru_embed_core.training.checkpoint_config import (
    REMEDY,
    WEIGHTS_FILE,
    CheckpointConfig,
    CheckpointError,
    read_checkpoint,
    verify_weights,
    write_config,
)
from booru_embed_core.training.light_table import LightTable
from booru_embed_core.training.mapped_weights import MappedWeights
from booru_embed_core.training.weights_layout import BETWEEN, SCALES, TABLE, VOCAB_KEY, check_weights


def encoder_config(vocab: Vocab, settings: ModelSettings) -> EncoderConfig:
    """The shape of a network for `vocab`."""
    return EncoderConfig(settings=settings, num_special=vocab.num_special, category_sizes=tuple(vocab.sizes.values()))


def save_checkpoint(
    out_dir: Path,
    model: SetEncoder,
    config: CheckpointConfig,
    vocab_dir: Path,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes weights, ``config.json`` with their SHA-256, and a copy of the vocabulary's files into `out_dir`.

    Args:
        out_dir: an empty folder.
        model: the network.
        config: its config.
        vocab_dir: holds the vocabulary's files.
        weights: those to write, by default those of `model`.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """
    state = model.state_dict() if weights is None else weights
    weights = {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
    spoilt = _not_finite(weights)
    if spoilt:
        raise CheckpointError(
            f"{out_dir}: {spoilt} has weights that are NaN or infinite; lower [training] learning_rate"
        )
    # A single entry: safetensors writes several in random order, so equal weights would give different bytes.
    save_file(weights, out_dir / WEIGHTS_FILE, metadata={VOCAB_KEY: _vocab_names(config)})
    write_config(out_dir, config, [WEIGHTS_FILE])
    for name in VOCAB_FILES:
        shutil.copyfile(vocab_dir / name, out_dir / name)


def _vocab_names(config: CheckpointConfig) -> str:
    """The vocabulary's hash, and that of its implications: a checkpoint with others is another version of it."""
    return BETWEEN.join(one for one in (config.vocab_hash, config.implications_sha256) if one)


def load_checkpoint(
    checkpoint_dir: Path, device: torch.device | str = "cpu"
) -> tuple[SetEncoder, CheckpointConfig, Vocab]:
    """The model in evaluation mode on `device`, its config and its vocabulary.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights belong to another vocabulary.
        VocabError: the vocabulary is damaged.
    """
    config, vocab = read_checkpoint(checkpoint_dir)
    return load_model(checkpoint_dir, config, device), config, vocab


def load_model(checkpoint_dir: Path, config: CheckpointConfig, device: torch.device | str = "cpu") -> SetEncoder:
    """The model of `read_checkpoint`'s config in evaluation mode on `device`.

    The file is compared with its checksum, and its header with the config, before memory is taken for a weight.

    Raises:
        CheckpointError: the weights are missing, damaged, NaN or infinite, or belong to another vocabulary.
    """
    file = checkpoint_dir / WEIGHTS_FILE
    model = _outline_of(file, config)
    with safe_open(file, framework="pt") as weights:
        # Copies, for the tensors are views of the file.
        tensors = {name: weights.get_tensor(name).clone() for name in weights.keys()}  # noqa: SIM118  it is no dict
    _check_finite(file, _not_finite(tensors))
    scales = tensors.pop(SCALES, None)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    if scales is not None:
        tensors[TABLE] *= scales[:, None]
    model.load_state_dict(tensors, assign=True)
    return model.eval().to(device)


def load_mapped(checkpoint_dir: Path, config: CheckpointConfig) -> tuple[SetEncoder, MappedWeights]:
    """As `load_model` on the CPU, but the tags' vectors stay in the file and take memory only where they are read.

    Raises:
        CheckpointError: as in `load_model`.
    """
    file = checkpoint_dir / WEIGHTS_FILE
    model = _outline_of(file, config)
    weights = MappedWeights(file)
    _check_finite(file, weights.spoilt())
    tensors = {name: torch.from_numpy(array) for name, array in weights.arrays.items()}
    table, scales = tensors[TABLE], tensors.pop(SCALES, None)
    # Copies of the others, which are aligned in memory: products with them have the same last digits everywhere.
    tensors = {name: tensor if name == TABLE else tensor.float().clone() for name, tensor in tensors.items()}
    if table.dtype != torch.float32:
        del tensors[TABLE]
        model.tokens = LightTable(table, scales)  # type: ignore[assignment]  # it is read alike
    model.load_state_dict(tensors, assign=True)
    return model.eval(), weights


def _outline_of(file: Path, config: CheckpointConfig) -> SetEncoder:
    """The network of `config` without weights, if `file` has them, as its checksum and its header say.

    Raises:
        CheckpointError: the file is missing, damaged, or of another vocabulary.
    """
    verify_weights(file, config)
    try:
        with safe_open(file, framework="pt") as weights:
            made_with = (weights.metadata() or {}).get(VOCAB_KEY, "")
            found = {name: _layout(weights.get_slice(name)) for name in list(weights.keys())}
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not this model's weights ({one_line(error, 200)}); {REMEDY}") from None
    check_weights(file, config, found, made_with)
    return _outline(
        EncoderConfig(settings=config.model, num_special=config.num_special, category_sizes=config.category_sizes)
    )


def _check_finite(file: Path, spoilt: str) -> None:
    if spoilt:
        raise CheckpointError(f"{file}: {spoilt} has weights that are NaN or infinite; {REMEDY}")


def model_of(shape: EncoderConfig, weights: dict[str, Tensor]) -> SetEncoder:
    """The network of `shape` in evaluation mode that takes over `weights`; it draws no random numbers."""
    model = _outline(shape)
    model.load_state_dict(weights, assign=True)
    return model.eval()


class _NoInitialWeights(TorchFunctionMode):
    """Leaves out all of ``torch.nn.init``, which would first import packages for seconds to fill nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _outline(shape: EncoderConfig) -> SetEncoder:
    """The network of `shape`, whose weights take no memory and have no values yet."""
    with torch.device("meta"), _NoInitialWeights():
        return SetEncoder(shape)


def _layout(tensor: Any) -> tuple[str, tuple[int, ...]]:  # a type that safetensors does not name
    """The type and the shape of a tensor, of the file's header."""
    return tensor.get_dtype(), tuple(tensor.get_shape())


def _not_finite(weights: Mapping[str, Tensor]) -> str:
    """The name of a tensor with a NaN or an infinity; empty if there is none."""
    for name, tensor in weights.items():
        if tensor.numel() and not all(bool(end.isfinite()) for end in tensor.aminmax()):
            return name
    return ""
