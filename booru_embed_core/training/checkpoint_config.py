"""File names and ``config.json`` of a published checkpoint, and the check that its vocabulary matches.

Serving imports this module first, so it does not import torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from booru_embed_core.settings import ModelSettings, TokensSettings, TrainingSettings
from booru_embed_core.tags.vocab import Vocab

FORMAT_VERSION: Final = 2
WEIGHTS_FILE: Final = "model.safetensors"
CONFIG_FILE: Final = "config.json"
LOG_FILE: Final = "training_log.jsonl"
CARD_FILE: Final = "README.md"
REMEDY: Final = "materialize the checkpoint again"


class CheckpointError(ValueError):
    """A checkpoint is unusable. The message names the file, the fault and the remedy in one line."""


class CheckpointConfig(BaseModel):
    """The content of ``config.json``, written once from the vocab and the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    vocab_hash: str
    num_special: int
    category_sizes: tuple[int, ...]
    model: ModelSettings
    training: TrainingSettings
    splits: TokensSettings
    packed_tokens: str
    """Version of the packed file that the model was trained on, which is its folder's name."""
    score_bin_edges: list[list[float]]
    """For each rating, the 9 inner decile edges of the training scores."""
    trained_ratings: tuple[str, ...]
    """Ratings given in training. The tokens of other ratings, and of scores with them, are untrained."""
    num_train_posts: int
    best_epoch: float
    validation_loss: float | None
    """The lowest validation loss, of bottleneck plus completion head; None without a validation split."""
    implications_sha256: str | None = None
    """Of the vocabulary's implications, which its hash does not cover; None if it has none."""


def read_config(checkpoint_dir: Path) -> CheckpointConfig:
    """The config of a published checkpoint.

    Raises:
        CheckpointError: the config is missing, has another format, or is invalid.
    """
    file = checkpoint_dir / CONFIG_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        # Checked first: another format has other keys, and an error about a key would mislead.
        found = values.get("format_version") if isinstance(values, dict) else None
        if found not in (None, FORMAT_VERSION):
            raise CheckpointError(f"{file}: format_version {found!r} instead of {FORMAT_VERSION}; {REMEDY}")
        return CheckpointConfig.model_validate(values)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{file}: no such file; give the folder of a checkpoint, or train one with `make run`"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{file}: not a checkpoint's config ({where}: {first['msg']}); {REMEDY}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: not a checkpoint's config ({error}); {REMEDY}") from None


def read_checkpoint(checkpoint_dir: Path) -> tuple[CheckpointConfig, Vocab]:
    """The config of a published checkpoint, and its vocabulary.

    Raises:
        CheckpointError: as `read_config`, or the weights were trained with another vocabulary.
        VocabError: the vocabulary is damaged.
    """
    config = read_config(checkpoint_dir)
    vocab = Vocab.load(checkpoint_dir)
    if vocab.hash != config.vocab_hash or tuple(vocab.sizes.values()) != config.category_sizes:
        raise CheckpointError(
            f"{checkpoint_dir}: the weights were trained with the vocab {config.vocab_hash[:16]}, but the vocab beside "
            f"them is {vocab.hash[:16]}; restore the vocab files of that checkpoint, or {REMEDY}"
        )
    return config, vocab


def read_log(checkpoint_dir: Path) -> list[dict[str, Any]]:
    """The training log's records, in order: ``{"step", "epoch", "loss", …}`` and ``{"step", "validation": {…}}``."""
    text = (checkpoint_dir / LOG_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
