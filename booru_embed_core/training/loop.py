"""From packed tokens to a trained checkpoint: one process, any device, resumable at any step.

A step is a pure function of the weights, the optimizer's state and its own number: batches, splits and dropout are all
seeded by ``(seed, step)``. So a run that was stopped and resumed ends in the same bits on a CPU as one that was not.

What belongs here: the schedule of steps, validation, saving and reporting. Not what the loss is (``model/objective``)
nor what is on disk (``checkpoint``).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.objective import Captions, Losses, objective
from booru_embed_core.settings import ModelSettings, TrainingSettings, section_version
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.batches import (
    Batch,
    EpochBatches,
    batch_starts,
    ratings_of,
    rows_of_split,
    score_bin_edges,
    score_bins,
)
from booru_embed_core.tokens.device_corpus import DeviceCorpus, fits_on
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.prefetch import prefetch
from booru_embed_core.training.card import model_card
from booru_embed_core.training.checkpoint import (
    CARD_FILE,
    LOG_FILE,
    CheckpointConfig,
    encoder_config,
    load_state,
    save_checkpoint,
    save_state,
)
from booru_embed_core.training.events import EVENTS_FOLDER, EventLog
from booru_embed_core.training.hardware import pick_device, pick_dtype, speed_up
from booru_embed_core.training.log import TrainingLog
from booru_embed_core.training.optimizer import Optimizer
from booru_embed_core.training.schedule import Steps, learning_rate, mixed_seed

VALIDATION_SEED: Final = 0x5EED
_LOG_EVERY_STEPS: Final = 10


class TrainingInterrupted(Exception):  # noqa: N818  not an error: the state is saved and the next run goes on from it
    """Training was asked to stop and saved its state."""


class NonFiniteLossError(ValueError):
    """A loss or gradient is NaN or infinite; the message names the step and the posts of its batch."""


@dataclass(frozen=True)
class Progress:
    """What training reports while it runs; `log` records have the same content."""

    step: int
    num_steps: int
    epoch: float
    loss: float
    terms: dict[str, float]
    learning_rate: float
    tokens_per_second: float
    eta_seconds: float
    validation: dict[str, float] | None = None

    def line(self) -> str:
        """One line for people."""
        share = f"step {self.step}/{self.num_steps}  epoch {self.epoch:.2f}  loss {self.loss:.4f}"
        speed = f"{self.tokens_per_second:,.0f} tokens/s  ETA {_duration(self.eta_seconds)}"
        if self.validation is None:
            return f"{share}  {speed}"
        return f"{share}  validation loss {self.validation['loss']:.4f}  {speed}"


@dataclass(frozen=True)
class TrainReport:
    """What came out of training."""

    num_parameters: int
    num_steps: int
    num_train_posts: int
    best_epoch: float
    validation_loss: float | None
    """The best one; None without a validation split."""
    final_loss: float
    seconds: float
    precision: str
    device: str


@dataclass
class _Run:
    """The moving parts of a training; everything else follows from the step's number."""

    model: SetEncoder
    optimizer: Optimizer
    batches: EpochBatches
    steps: Steps
    settings: TrainingSettings
    device: torch.device
    dtype: torch.dtype
    edges: list[list[float]]
    step: int = 0
    best_loss: float = math.inf
    best_epoch: float = 0.0
    best_weights: dict[str, torch.Tensor] | None = None
    seconds: float = 0.0

    @property
    def num_steps(self) -> int:
        return self.steps.num_steps

    def captions(self, batch: Batch) -> Captions:
        bins = score_bins(self.edges, batch.ratings, batch.scores)
        return captions_of(batch, self.model.config.category_sizes, bins, self.device)

    def weight(self, batch: Batch) -> float:
        """What the mean loss of `batch` is worth: its records over the mean batch's where their number is free."""
        if self.settings.batch_tokens is None:
            return 1.0
        mean = len(self.batches.post_index) * self.settings.num_epochs / self.num_steps
        return len(batch.post_index) / mean

    def generator(self, *key: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(mixed_seed(self.settings.seed, *key))


def train(
    packed_path: Path,
    vocab_dir: Path,
    work_dir: Path,
    out_dir: Path,
    model_settings: ModelSettings,
    settings: TrainingSettings,
    report: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainReport:
    """Trains on the training split and writes the best weights by validation loss as a checkpoint into `out_dir`.

    Args:
        packed_path: the packed file.
        vocab_dir: the vocabulary it was made with.
        work_dir: where the training state is kept; a state found there is gone on from.
        out_dir: an empty folder for the checkpoint.
        model_settings: the network's shape.
        settings: how to train it.
        report: called with every log record.
        should_stop: asked after every step; on True the state is saved and `TrainingInterrupted` raised.

    Raises:
        PackedFileError: the packed file is damaged or was made with another vocabulary.
        CheckpointError: `work_dir` holds the state of another training.
        NonFiniteLossError: a loss or a gradient is no number any more; the last saved state is kept.
        TrainingInterrupted: `should_stop` said so.
    """
    vocab = Vocab.load(vocab_dir)
    packed = PackedFile.open(packed_path, vocab.hash)
    run = _start(packed, vocab, model_settings, settings)
    fingerprint = _fingerprint(packed, vocab, model_settings, settings, run)
    work_dir.mkdir(parents=True, exist_ok=True)
    state = load_state(work_dir, fingerprint)
    if state is not None:
        _restore(run, state)
    log = TrainingLog(work_dir / LOG_FILE, run.step)
    epoch, index = run.steps.place(run.step)
    with (
        EventLog(work_dir / EVENTS_FOLDER, run.step) as events,
        prefetch(run.batches.read_from(epoch, index, settings.num_epochs)) as batches,
    ):
        for progress in _steps(run, packed, (batch for _, _, batch in batches)):
            if progress is not None:
                record = {name: value for name, value in vars(progress).items() if value is not None}
                log.append(record)
                events.append(record)
                report(progress)
                if progress.step % settings.checkpoint_every_steps == 0 or progress.validation is not None:
                    save_state(work_dir, _state(run, fingerprint))
            if run.step < run.num_steps and should_stop():
                save_state(work_dir, _state(run, fingerprint))
                raise TrainingInterrupted(f"stopped at step {run.step} of {run.num_steps}; the state is in {work_dir}")
        events.copy_to(out_dir / EVENTS_FOLDER)
    return _publish(run, packed, vocab, vocab_dir, out_dir, log)


def captions_of(batch: Batch, category_sizes: tuple[int, ...], bins: torch.Tensor, device: torch.device) -> Captions:
    """The batch as the objective takes it, on `device`; `bins` are the score deciles, int64 ``[N]``."""
    return Captions(
        tags=batch.tag_indices(category_sizes).to(device, non_blocking=True),
        lengths=batch.field_lengths.sum(1).to(device, non_blocking=True),
        ratings=batch.ratings.to(device, non_blocking=True),
        score_bins=bins.to(device, non_blocking=True),
        max_length=batch.max_length,
    )


def _start(packed: PackedFile, vocab: Vocab, model_settings: ModelSettings, settings: TrainingSettings) -> _Run:
    device = pick_device(settings.device)
    rows = rows_of_split(packed, "train")
    read_rows = DeviceCorpus(packed, device).read if fits_on(packed, device) else None
    batches = EpochBatches(packed, rows, settings.batch_posts, settings.seed, settings.batch_tokens, read_rows)
    steps = Steps(tuple(accumulate(batches.num_batches(epoch) for epoch in range(settings.num_epochs))))
    torch.manual_seed(settings.seed)
    model = SetEncoder(encoder_config(vocab, model_settings))
    model.start_from_frequencies(torch.from_numpy(vocab.counts / max(1, packed.num_posts)))
    model.to(device)
    dtype = pick_dtype(settings.precision, device)
    speed_up(model, device, dtype)
    return _Run(
        model, Optimizer(model, settings), batches, steps, settings, device, dtype, score_bin_edges(packed, rows)
    )


def _steps(run: _Run, packed: PackedFile, batches: Iterable[Batch]) -> Iterator[Progress | None]:
    """Trains from `run.step` to the end on `batches` and yields after every step, None where it is not logged.

    Validates at the end of each epoch.
    """
    validation_rows = rows_of_split(packed, "validation")
    started, first_step, before = time.monotonic(), run.step, run.seconds
    num_tokens = 0
    for batch in batches:
        losses, rate, norm = _step(run, batch)
        run.step += 1
        num_tokens += len(batch.tokens)
        run.seconds = before + time.monotonic() - started
        ends_epoch = run.step in run.steps.ends
        is_logged = run.step % _LOG_EVERY_STEPS == 0 or run.step % run.settings.checkpoint_every_steps == 0
        is_logged = is_logged or ends_epoch
        if is_logged or run.device.type == "cpu":  # on a GPU a look at a number waits for the device
            _check_finite(run, batch, {"loss": losses.total.item(), "gradient's norm": norm.item()})
        if not is_logged:
            yield None
            continue
        validation = _validate(run, packed, validation_rows) if ends_epoch and len(validation_rows) else None
        epochs_done = run.steps.epochs_done(run.step)
        if validation is not None:
            _check_finite(run, batch, {"validation loss": validation["loss"]})
        if validation is not None and validation["loss"] < run.best_loss:
            run.best_loss, run.best_epoch = validation["loss"], epochs_done
            run.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in run.model.state_dict().items()}
        elapsed = time.monotonic() - started
        run.seconds = before + elapsed
        yield Progress(
            step=run.step,
            num_steps=run.num_steps,
            epoch=epochs_done,
            loss=losses.total.item(),
            terms={name: term.item() for name, term in losses.terms.items()},
            learning_rate=rate,
            tokens_per_second=num_tokens / elapsed,
            eta_seconds=elapsed / (run.step - first_step) * (run.num_steps - run.step),
            validation=validation,
        )


def _step(run: _Run, batch: Batch) -> tuple[Losses, float, torch.Tensor]:
    """The losses, the learning rate and the norm of the gradient before it was clipped."""
    rate = learning_rate(run.step, run.num_steps, run.settings)
    torch.manual_seed(mixed_seed(run.settings.seed, run.step, 1))  # dropout's
    losses = objective(run.model, run.captions(batch), run.settings, run.generator(run.step), run.dtype)
    run.optimizer.zero_grad()
    (losses.total * run.weight(batch)).backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(run.optimizer.parameters, run.settings.clip_norm)
    run.optimizer.step(rate)
    return losses, rate, norm


@torch.no_grad()
def _validate(run: _Run, packed: PackedFile, rows: NDArray[np.int64]) -> dict[str, float]:
    """Mean terms over the validation split, each post split the same way every time."""
    run.model.eval()
    sums: dict[str, float] = {}
    starts = batch_starts(packed, rows, run.settings.batch_posts, run.settings.batch_tokens).tolist()
    for number, (start, end) in enumerate(pairwise(starts)):
        batch = run.batches.read_rows(rows[start:end])
        generator = torch.Generator(run.device).manual_seed(mixed_seed(VALIDATION_SEED, number))
        losses = objective(run.model, run.captions(batch), run.settings, generator, run.dtype)
        share = len(batch.post_index) / len(rows)
        for name, term in {"loss": losses.terms["bottleneck"] + losses.terms["head"], **losses.terms}.items():
            sums[name] = sums.get(name, 0.0) + share * term.item()
    run.model.train()
    return sums


def _check_finite(run: _Run, batch: Batch, numbers: Mapping[str, float]) -> None:
    bad = ", ".join(f"{name} {number}" for name, number in numbers.items() if not math.isfinite(number))
    if not bad:
        return
    ids = [str(post_id) for post_id in run.batches.packed.post_id[batch.post_index.cpu().numpy()]]
    shown = ", ".join(ids[:8]) + (", …" if len(ids) > 8 else "")
    raise NonFiniteLossError(
        f"step {run.step}: {bad}, at a batch of {len(ids)} posts with the ids {shown}; lower [training] learning_rate "
        f'(is {run.settings.learning_rate}) or set precision = "fp32" (is "{run.settings.precision}")'
    )


def _publish(
    run: _Run, packed: PackedFile, vocab: Vocab, vocab_dir: Path, out_dir: Path, log: TrainingLog
) -> TrainReport:
    if run.best_weights is not None:
        run.model.load_state_dict(run.best_weights)
    else:  # no validation split
        run.best_epoch = float(run.settings.num_epochs)
    config = CheckpointConfig(
        vocab_hash=vocab.hash,
        num_special=vocab.num_special,
        category_sizes=tuple(vocab.sizes.values()),
        model=run.model.config.settings,
        training=run.settings,
        splits=packed.split_settings,
        packed_tokens=packed.path.resolve().parent.name,
        score_bin_edges=run.edges,
        trained_ratings=ratings_of(packed, run.batches.post_index) if run.settings.metadata_keep_share else (),
        num_train_posts=len(run.batches.post_index),
        best_epoch=run.best_epoch,
        validation_loss=run.best_loss if run.best_weights is not None else None,
    )
    save_checkpoint(out_dir, run.model, config, vocab_dir)
    log.copy_to(out_dir / LOG_FILE)
    num_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    (out_dir / CARD_FILE).write_text(model_card(config, vocab, num_parameters), encoding="utf-8")
    return TrainReport(
        num_parameters=num_parameters,
        num_steps=run.num_steps,
        num_train_posts=config.num_train_posts,
        best_epoch=config.best_epoch,
        validation_loss=config.validation_loss,
        final_loss=log.records[-1]["loss"],
        seconds=run.seconds,
        precision=str(run.dtype).removeprefix("torch."),
        device=run.device.type,
    )


def _state(run: _Run, fingerprint: str) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint,
        "step": run.step,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "best_loss": run.best_loss,
        "best_epoch": run.best_epoch,
        "best_weights": run.best_weights,
        "seconds": run.seconds,
    }


def _restore(run: _Run, state: dict[str, Any]) -> None:
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.step, run.best_loss, run.best_epoch = state["step"], state["best_loss"], state["best_epoch"]
    run.best_weights, run.seconds = state["best_weights"], state["seconds"]


def _fingerprint(
    packed: PackedFile, vocab: Vocab, model_settings: ModelSettings, settings: TrainingSettings, run: _Run
) -> str:
    content = hashlib.sha256()
    for array in (packed.tokens, packed.field_lengths, packed.post_id, packed.rating, packed.score):
        content.update(array.data)
    # Saving more often does not make it another training.
    parts = [
        vocab.hash,
        content.hexdigest(),
        section_version(packed.split_settings),
        section_version(model_settings),
        section_version(settings.model_copy(update={"checkpoint_every_steps": 1})),
        str(run.dtype),
        run.device.type,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
