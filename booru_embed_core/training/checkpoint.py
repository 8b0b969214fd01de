"""Checkpoints on disk: the folder that anyone loads. Not the state that a training resumes from (``states``).

A published checkpoint holds everything that inference needs and nothing that can be executed: ``model.safetensors``
(float32 weights), ``config.json`` (shape, sizes, what it was trained on) and the vocabulary's files. Its sizes are
derived from the vocabulary and its ``vocab_hash`` must match, so ids can never shift against the weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.settings import ModelSettings, TokensSettings, TrainingSettings
from booru_embed_core.tags.vocab import TOKENIZER_FILE, VOCAB_FILE, VOCAB_TABLE_FILE, Vocab

FORMAT_VERSION: Final = 2
WEIGHTS_FILE: Final = "model.safetensors"
CONFIG_FILE: Final = "config.json"
LOG_FILE: Final = "training_log.jsonl"
CARD_FILE: Final = "README.md"
_REMEDY: Final = "materialize the checkpoint again"
_VOCAB_KEY: Final = "vocab_hash"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, what is wrong and the remedy in one line."""


class CheckpointConfig(BaseModel):
    """What ``config.json`` says: written once, from the vocab and the settings, never by hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    vocab_hash: str
    num_special: int
    category_sizes: tuple[int, ...]
    model: ModelSettings
    training: TrainingSettings
    splits: TokensSettings
    packed_tokens: str
    """Version of the packed file it was trained on: the name of its folder."""
    score_bin_edges: list[list[float]]
    """For each rating, the 9 inner decile edges of the training scores."""
    trained_ratings: tuple[str, ...]
    """Ratings that were given in training: the tokens of the others, and of their scores, mean nothing."""
    num_train_posts: int
    best_epoch: float
    validation_loss: float | None
    """The best one, of bottleneck and head; None without a validation split."""

    @property
    def encoder(self) -> EncoderConfig:
        """The network's shape."""
        return EncoderConfig(settings=self.model, num_special=self.num_special, category_sizes=self.category_sizes)


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
    # One entry alone: safetensors writes several in random order, and the same weights would not be the same bytes.
    save_file(weights, out_dir / WEIGHTS_FILE, metadata={_VOCAB_KEY: config.vocab_hash})
    (out_dir / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for name in (VOCAB_TABLE_FILE, VOCAB_FILE, TOKENIZER_FILE):
        shutil.copyfile(vocab_dir / name, out_dir / name)


def read_config(checkpoint_dir: Path) -> CheckpointConfig:
    """The config of a published checkpoint.

    Raises:
        CheckpointError: it is missing, of another format, or not a checkpoint's.
    """
    file = checkpoint_dir / CONFIG_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        # First of all: another format has other keys, and the complaint about these would mislead.
        found = values.get("format_version") if isinstance(values, dict) else None
        if found not in (None, FORMAT_VERSION):
            raise CheckpointError(f"{file}: format_version {found!r} instead of {FORMAT_VERSION}; {_REMEDY}")
        return CheckpointConfig.model_validate(values)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{file}: no such file; give the folder of a checkpoint, or train one with `make run`"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{file}: not a checkpoint's config ({where}: {first['msg']}); {_REMEDY}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: not a checkpoint's config ({error}); {_REMEDY}") from None


def load_checkpoint(
    checkpoint_dir: Path, device: torch.device | str = "cpu"
) -> tuple[SetEncoder, CheckpointConfig, Vocab]:
    """The model in evaluation mode on `device`, its config and its vocabulary.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not belong to the vocabulary beside them.
        VocabError: the vocabulary is damaged.
    """
    config = read_config(checkpoint_dir)
    vocab = Vocab.load(checkpoint_dir)
    if vocab.hash != config.vocab_hash or tuple(vocab.sizes.values()) != config.category_sizes:
        raise CheckpointError(
            f"{checkpoint_dir}: the weights were trained with the vocab {config.vocab_hash[:16]}, but the vocab beside "
            f"them is {vocab.hash[:16]}; restore the vocab files of that checkpoint, or {_REMEDY}"
        )
    file = checkpoint_dir / WEIGHTS_FILE
    model = SetEncoder(config.encoder)
    try:
        with safe_open(file, framework="pt") as weights:
            made_with = (weights.metadata() or {}).get(_VOCAB_KEY, "")
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118  it is no mapping
        if made_with != vocab.hash:
            raise CheckpointError(
                f"{file}: weights of the vocab {made_with[:16] or '(none named)'}, but the vocab beside them is "
                f"{vocab.hash[:16]}; restore the weights of that checkpoint, or {_REMEDY}"
            )
        model.load_state_dict(tensors)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file; {_REMEDY}") from None
    except (SafetensorError, RuntimeError) as error:
        first_line = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: not this model's weights ({first_line}); {_REMEDY}") from None
    return model.eval().to(device), config, vocab


def read_log(checkpoint_dir: Path) -> list[dict[str, Any]]:
    """The training log's records, in order: ``{"step", "epoch", "loss", …}`` and ``{"step", "validation": {…}}``."""
    text = (checkpoint_dir / LOG_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
