"""File names and ``config.json`` of a published checkpoint, and the check that its vocabulary matches.

Serving imports this module first, so it does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationInfo, field_validator

from booru_embed_core.errors import cannot_be_read
from booru_embed_core.filesystem import file_sha256, open_regular
from booru_embed_core.json_files import Count, FileName, SealedModel, Sha256, read_json
from booru_embed_core.schema import CATEGORIES, NUM_SCORE_BINS, RATINGS
from booru_embed_core.settings import ModelSettings, TokensSettings, TrainingSettings
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.log import read_records
from booru_embed_core.version_file import verify_version

FORMAT_VERSION: Final = 2
WEIGHTS_FILE: Final = "model.safetensors"
CONFIG_FILE: Final = "config.json"
LOG_FILE: Final = "training_log.jsonl"
CARD_FILE: Final = "README.md"
REMEDY: Final = "materialize the checkpoint again"


class CheckpointError(ValueError):
    """A checkpoint is unusable. The message names the file, the fault and the remedy in one line."""


_Rating = Annotated[str, Field(pattern=f"^[{''.join(RATINGS)}]$")]
_Edges = Annotated[list[float], Field(min_length=NUM_SCORE_BINS - 1, max_length=NUM_SCORE_BINS - 1)]


class CheckpointConfig(SealedModel):
    """The content of ``config.json``, written once from the vocab and the settings."""

    format_version: int = FORMAT_VERSION
    vocab_hash: str
    num_special: Count
    category_sizes: Annotated[tuple[Count, ...], Field(min_length=len(CATEGORIES), max_length=len(CATEGORIES))]
    model: ModelSettings
    training: TrainingSettings
    splits: TokensSettings
    packed_tokens: str
    """Version of the packed file that the model was trained on, which is its folder's name."""
    score_bin_edges: Annotated[list[_Edges], Field(min_length=len(RATINGS), max_length=len(RATINGS))]
    """For each rating, the 9 inner decile edges of the training scores."""
    trained_ratings: tuple[_Rating, ...]
    """Ratings given in training. The tokens of other ratings, and of scores with them, are untrained."""
    num_train_posts: Count
    best_epoch: float
    validation_loss: float | None
    """The lowest validation loss, of bottleneck plus completion head; None without a validation split."""
    num_steps: Count | None = None
    """Steps of the training; None in checkpoints of older builds."""
    num_planned_steps: Count | None = None
    """Steps of all epochs. A practice run takes fewer; None in checkpoints of older builds."""
    implications_sha256: str | None = None
    """Of the vocabulary's implications, which its hash does not cover; None if it has none."""
    files: dict[FileName, Sha256] | None = None
    """The SHA-256 of each file of weights beside it; None in checkpoints of older builds."""

    @field_validator("model")
    @classmethod
    def _of_older_builds(cls, value: ModelSettings, info: ValidationInfo) -> ModelSettings:
        is_older = info.mode == "json" and "feed_forward_first" not in value.model_fields_set
        return value.model_copy(update={"feed_forward_first": False}) if is_older else value

    @field_validator("training")
    @classmethod
    def _trained_by_older_builds(cls, value: TrainingSettings, info: ValidationInfo) -> TrainingSettings:
        older = {"decay": "cosine", "whole_share": 0.5} if info.mode == "json" else {}
        return value.model_copy(update={key: older[key] for key in older.keys() - value.model_fields_set})

    @property
    def is_practice(self) -> bool:
        """Whether ``[training] max_steps`` or ``max_minutes`` bounded the training, even if all epochs fitted."""
        if self.num_steps is None:
            return False
        is_bounded = (self.training.max_steps, self.training.max_minutes) != (None, None)
        return is_bounded or self.num_steps < (self.num_planned_steps or 0)

    @property
    def training_length(self) -> str:
        """How long it was trained, such as ``8 epochs``; says so if that was a practice run."""
        num_epochs = self.training.num_epochs
        if not self.is_practice:
            return f"{num_epochs} epochs"
        assert self.num_steps is not None
        if self.num_steps == self.num_planned_steps:
            return f"{num_epochs} epochs, a practice run: [training] bounds it, although all steps fitted"
        assert self.num_planned_steps is not None
        done = num_epochs * self.num_steps / self.num_planned_steps
        return (
            f"{done:.2g} of {num_epochs} epochs, a practice run: {self.num_steps:,} of {self.num_planned_steps:,} steps"
        )

    @property
    def practice_note(self) -> str:
        """A sentence that warns of a model of a practice run; empty for a whole training."""
        if not self.is_practice:
            return ""
        return f"The model was trained for {self.training_length}. Its figures are a lower bound."


def write_config(folder: Path, config: CheckpointConfig, weights: Iterable[str]) -> CheckpointConfig:
    """Writes ``config.json`` for the files `weights` in `folder`, with the SHA-256 of each; returns what it holds."""
    written = config.model_copy(update={"files": {name: file_sha256(folder / name) for name in sorted(weights)}})
    (folder / CONFIG_FILE).write_text(written.to_json(), encoding="utf-8")
    return written


def read_config(checkpoint_dir: Path) -> CheckpointConfig:
    """The config of a published checkpoint.

    Raises:
        CheckpointError: the config is missing, damaged, of another format, or invalid.
    """
    return read_json(
        checkpoint_dir / CONFIG_FILE,
        CheckpointConfig,
        CheckpointError,
        REMEDY,
        missing="give the folder of a checkpoint, or train one with `make run`",
        format_version=FORMAT_VERSION,
    )


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
    if config.num_special != vocab.num_special:
        raise CheckpointError(
            f"{checkpoint_dir / CONFIG_FILE}: num_special = {config.num_special}, but a vocab has {vocab.num_special} "
            f"special tokens; {REMEDY}"
        )
    return config, vocab


def verify_weights(file: Path, config: CheckpointConfig, remedy: str = REMEDY) -> bool:
    """Whether a checksum covers `file`; if so, it is read once and compared: 1.1 seconds a gigabyte.

    The checksum is that of `config`. Older checkpoints have none there, but one that still lies in its warehouse is
    named by the hash of its weights.

    Raises:
        CheckpointError: the file is missing, cannot be read, or was changed.
    """
    try:
        if config.files is None:
            with open_regular(file):
                pass
            return verify_version(file, CheckpointError, remedy)
        if file.name not in config.files:
            raise CheckpointError(
                f"{file}: {CONFIG_FILE} lists {', '.join(config.files) or 'no weights'} and not this file; remove it, "
                f"or {remedy}"
            )
        if file_sha256(file) != config.files[file.name]:
            raise CheckpointError(f"{file}: was changed: its SHA-256 is not that in {CONFIG_FILE}; {remedy}")
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file; {remedy}") from None
    except OSError as error:
        raise CheckpointError(f"{file}: {cannot_be_read(error, 'check the file')}") from None
    return True


def read_log(checkpoint_dir: Path) -> list[dict[str, Any]]:
    """The training log's records, in order: ``{"step", "epoch", "loss", …}``, and ``"validation"`` at an epoch's end.

    Raises:
        CheckpointError: the log is missing or damaged.
    """
    return read_records(checkpoint_dir / LOG_FILE, CheckpointError, REMEDY)
