"""Published checkpoints on disk. The states for resuming a training are in ``states``.

A published checkpoint holds everything that inference needs, and nothing executable: ``model.safetensors``
(float32 weights), ``config.json`` (shape, sizes, what it was trained on) and the vocabulary's files. Its sizes are
derived from the vocabulary and its ``vocab_hash`` must match, so ids cannot shift against the weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from booru_embed_core.errors import one_line
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.settings import ModelSettings
from booru_embed_core.tags.vocab import VOCAB_FILES, Vocab
from booru_embed_core.training.checkpoint_config import (
    CONFIG_FILE,
    REMEDY,
    WEIGHTS_FILE,
    CheckpointConfig,
    CheckpointError,
    read_checkpoint,
)

_VOCAB_KEY: Final = "vocab_hash"
_BETWEEN: Final = "+"


def encoder_config(vocab: Vocab, settings: ModelSettings) -> EncoderConfig:
    """The shape of a network for `vocab`."""
    return EncoderConfig(settings=settings, num_special=vocab.num_special, category_sizes=tuple(vocab.sizes.values()))


def save_checkpoint(out_dir: Path, model: SetEncoder, config: CheckpointConfig, vocab_dir: Path) -> None:
    """Writes weights, ``config.json`` and a copy of the vocabulary's files into `out_dir`.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """
    weights = {name: tensor.detach().float().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{out_dir}: {name} has weights that are NaN or infinite; lower [training] learning_rate"
            )
    # A single entry: safetensors writes several in random order, so equal weights would give different bytes.
    save_file(weights, out_dir / WEIGHTS_FILE, metadata={_VOCAB_KEY: _vocab_names(config)})
    (out_dir / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for name in VOCAB_FILES:
        shutil.copyfile(vocab_dir / name, out_dir / name)


def _vocab_names(config: CheckpointConfig) -> str:
    """The vocabulary's hash, and that of its implications: a checkpoint with others is another version of it."""
    return _BETWEEN.join(one for one in (config.vocab_hash, config.implications_sha256) if one)


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

    Raises:
        CheckpointError: the weights are missing, damaged, or belong to another vocabulary.
    """
    file = checkpoint_dir / WEIGHTS_FILE
    shape = EncoderConfig(settings=config.model, num_special=config.num_special, category_sizes=config.category_sizes)
    model = SetEncoder(shape)
    try:
        with safe_open(file, framework="pt") as weights:
            made_with = (weights.metadata() or {}).get(_VOCAB_KEY, "").split(_BETWEEN)[0]
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118  not a mapping
        if made_with != config.vocab_hash:
            raise CheckpointError(
                f"{file}: weights of the vocab {made_with[:16] or '(none named)'}, but the vocab beside them is "
                f"{config.vocab_hash[:16]}; restore the weights of that checkpoint, or {REMEDY}"
            )
        model.load_state_dict(tensors)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file; {REMEDY}") from None
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{file}: not this model's weights ({one_line(error, 200)}); {REMEDY}") from None
    return model.eval().to(device)
