"""From packed tokens to a trained checkpoint: one process or many, any device, resumable at any step.

A step is a pure function of the weights, the optimizer's state and its own number: batches, splits and dropout are all
seeded by ``(seed, step)``. On a CPU, a resumed run is therefore bit-identical to an uninterrupted one.

What belongs here: the loop over steps, validation, saving and reporting. The loss is in ``model/objective``, files are
in ``checkpoint_manager``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from booru_embed_core.disk_space import check_room, still_needed, training_bytes
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.objective import Losses
from booru_embed_core.model.sampled_network import TABLES
from booru_embed_core.settings import ModelSettings, TrainingSettings, section_version
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.batches import Batch, EpochBatches, rows_of_split
from booru_embed_core.tokens.device_corpus import DeviceCorpus, fits_on
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.prefetch import prefetch
from booru_embed_core.tokens.score_bins import score_bin_edges
from booru_embed_core.training.budget import limit_to_minutes, validated_rows
from booru_embed_core.training.checkpoint import encoder_config
from booru_embed_core.training.checkpoint_config import LOG_FILE
from booru_embed_core.training.checkpoint_manager import CheckpointManager
from booru_embed_core.training.distributed import Ranks, joined_ranks
from booru_embed_core.training.events import EVENTS_FOLDER, EventLog
from booru_embed_core.training.hardware import compile_for_device, pick_device, pick_dtype
from booru_embed_core.training.initial_vectors import start_from_correlation, start_from_ppmi
from booru_embed_core.training.log import TrainingLog
from booru_embed_core.training.optimizer import Optimizer
from booru_embed_core.training.progress import Progress
from booru_embed_core.training.sampled_tables import SampledTables, are_sampled
from booru_embed_core.training.schedule import Steps, learning_rate, learning_rates
from booru_embed_core.training.step import NonFiniteLossError, Run, check_finite, compute_step, validate

_LOG_EVERY_STEPS: Final = 10


class TrainingInterrupted(Exception):  # noqa: N818  not an error: the state is saved, and the next run resumes from it
    """Training was asked to stop and saved its state."""


@dataclass(frozen=True)
class TrainReport:
    """The result of a training."""

    num_parameters: int
    num_steps: int
    num_train_posts: int
    best_epoch: float
    validation_loss: float | None
    """The lowest validation loss; None without a validation split."""
    final_loss: float
    seconds: float
    precision: str
    device: str


def train(
    packed_path: Path,
    vocab_dir: Path,
    work_dir: Path,
    out_dir: Path,
    model_settings: ModelSettings,
    settings: TrainingSettings,
    report: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    offer_save: Callable[[Callable[[], str | None]], None] = lambda _: None,
    announce: Callable[[str], object] = lambda _: None,
) -> TrainReport:
    """Trains on the training split and writes the best weights by validation loss as a checkpoint into `out_dir`.

    Args:
        packed_path: the packed file.
        vocab_dir: folder of the vocabulary that the packed file was made with.
        work_dir: folder of the training states and the best checkpoint so far. Training resumes from its last
            undamaged state.
        out_dir: an empty folder for the checkpoint.
        model_settings: the network's shape.
        settings: the training settings.
        report: called with every log record, on the first rank only.
        should_stop: called after every step; if it returns True, the state is saved and `TrainingInterrupted` raised.
        offer_save: called before the first step with a save function for another thread. During a step or a
            validation, that function saves the state from before it, without waiting for it to finish. It returns the
            message of `TrainingInterrupted`, or None if training is over.
        announce: called with a line about what is done before the first report, on the first rank only.

    Raises:
        PackedFileError: the packed file is damaged or was made with another vocabulary.
        CheckpointError: `work_dir` holds the state of another training, or only damaged states.
        DiskError: the disk of `work_dir` has no room for the states, or was filled meanwhile.
        NonFiniteLossError: non-finite loss or gradient. The state before it is in `work_dir` as
            `states.FAILED_STATE_FILE`, for debugging; the saved states are unchanged.
        RankLostError: another rank ended.
        TrainingInterrupted: `should_stop` returned True on any rank.
    """
    started = time.monotonic()
    vocab = Vocab.load(vocab_dir)
    packed = PackedFile.open(packed_path, vocab.hash)
    check_room(work_dir, still_needed(_least_bytes(packed, vocab, model_settings, settings), work_dir), "training")
    with joined_ranks() as ranks:
        say = announce if ranks.is_first else (lambda _: None)
        run = start_run(packed, vocab, model_settings, settings, ranks, say)
        run.started = started
        say("reads the posts once, to know them again when training resumes")
        fingerprint = _fingerprint(packed, vocab, model_settings, settings, run)
        work_dir.mkdir(parents=True, exist_ok=True)
        checkpoint_manager = CheckpointManager(run, vocab, vocab_dir, work_dir, fingerprint)
        is_resumed = checkpoint_manager.restore()
        ranks.check_agreement("the training", f"{fingerprint[:16]} at step {run.step}")
        log = TrainingLog(work_dir / LOG_FILE, run.step, ranks.is_first)
        with (
            checkpoint_manager,
            _encoding_by_shards(run),
            EventLog(work_dir / EVENTS_FOLDER, run.step, ranks.is_first) as events,
        ):
            with _failed_state_kept(run, checkpoint_manager):
                if settings.max_minutes is not None and not is_resumed:
                    limit_to_minutes(run, rows_of_split(packed, "validation"), settings.max_minutes, say)
                offer_save(checkpoint_manager.save_meanwhile)
                say(_beginning(run))
                _run_steps(run, checkpoint_manager, (log, events), report, should_stop, say)
            events.copy_to(out_dir / EVENTS_FOLDER)
        return _publish(run, checkpoint_manager, out_dir, log)


def _least_bytes(packed: PackedFile, vocab: Vocab, model_settings: ModelSettings, settings: TrainingSettings) -> float:
    """A lower bound of what the states and checkpoints of the training take."""
    is_validated = len(rows_of_split(packed, "validation")) > 0
    is_limited = settings.max_steps is not None or settings.max_minutes is not None
    num_states = 1 if is_limited else min(settings.keep_states, settings.num_epochs)
    return training_bytes(vocab.num_special + vocab.num_tags, model_settings.width, num_states, is_validated)


@contextmanager
def _failed_state_kept(run: Run, checkpoint_manager: CheckpointManager) -> Iterator[None]:
    """Saves the state before a step that fails, for debugging, and names its file in the error."""
    try:
        yield
    except NonFiniteLossError as error:
        file = checkpoint_manager.save_failed(error)
        run.ranks.wait()  # torchrun kills the other ranks as soon as one exits
        raise NonFiniteLossError(f"{error}; the state before it is in {file}", error.post_ids) from None


@contextmanager
def _encoding_by_shards(run: Run) -> Iterator[None]:
    """`run` encodes by the model that the ranks share; afterwards nothing holds it, as `Ranks.wrap` asks."""
    run.encode = run.ranks.wrap(run.network)
    try:
        yield
    finally:
        run.encode = None


def _run_steps(
    run: Run,
    checkpoint_manager: CheckpointManager,
    logs: tuple[TrainingLog, EventLog],
    report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    announce: Callable[[str], object],
) -> None:
    """Trains from `run.step` to the end, batch by batch, and validates at the end of each epoch and of the training."""
    validation_rows = validated_rows(run.steps, rows_of_split(run.batches.packed, "validation"))
    if run.unvalidated is not None:  # the state was saved during a validation
        _record(_validated(run, run.unvalidated, validation_rows), run, checkpoint_manager, logs, report)
        _stop_if_asked(run, checkpoint_manager, should_stop)
    speed = _Speed(time.monotonic(), run.step)
    rest = islice(
        run.batches.read_from(*run.steps.position(run.step), run.settings.num_epochs), run.num_steps - run.step
    )
    with prefetch(rest) as batches:
        for batch in batches:
            run.draw_tags(batch)
            with run.computing(checkpoint_manager.hand_over):
                losses = compute_step(run, batch)
            rate = learning_rate(run.step, run.num_steps, run.settings)
            run.take_step(rate)
            speed.num_tokens += len(batch.tokens)
            if run.step == speed.first_step + 1:
                announce(_first_step(run, batch, time.monotonic() - speed.started))
            ends_epoch = run.steps.is_end(run.step)
            if ends_epoch and run.tables is not None:
                run.tables.catch_up_all(run.step)
            if ends_epoch or _is_saved(run.step, run.settings) or run.step % _LOG_EVERY_STEPS == 0:
                progress = _progress(run, losses, rate, speed)
                if ends_epoch and len(validation_rows):
                    progress = _validated(run, progress, validation_rows)
                _record(progress, run, checkpoint_manager, logs, report)
            _stop_if_asked(run, checkpoint_manager, should_stop)


def _beginning(run: Run) -> str:
    """What is about to be trained, as a line for people."""
    steps = f"{run.num_steps:,} steps" + (f", {run.step:,} of them done" if run.step else "")
    return f"trains {run.num_parameters:,} parameters on {run.device.type}: {steps}"


def _first_step(run: Run, batch: Batch, seconds: float) -> str:
    """How long the first step of this process took, as a line for people."""
    size = f"{len(batch.post_index):,} posts and {len(batch.tokens):,} tags"
    return f"step {run.step}/{run.num_steps}  took {seconds:.1f} s for {size}; later ones may be faster"


@dataclass
class _Speed:
    """Tokens trained by this process, and since when."""

    started: float
    """On the clock `time.monotonic`."""
    first_step: int
    num_tokens: int = 0


def _progress(run: Run, losses: Losses, rate: float, speed: _Speed) -> Progress:
    """The report of the step that just finished, at learning rate `rate`."""
    elapsed = time.monotonic() - speed.started
    return Progress(
        step=run.step,
        num_steps=run.num_steps,
        epoch=run.steps.epochs_done(run.step),
        loss=losses.total.item(),
        terms={name: term.item() for name, term in losses.terms.items()},
        learning_rate=rate,
        tokens_per_second=speed.num_tokens / elapsed,
        eta_seconds=elapsed / (run.step - speed.first_step) * (run.num_steps - run.step),
    )


def _validated(run: Run, progress: Progress, rows: NDArray[np.int64]) -> Progress:
    """`progress` of an epoch's last step with the validation on `rows` added; keeps the weights if they are the best.

    A state saved meanwhile has `progress` as ``unvalidated``, so a resumed training starts with this validation.
    """
    run.unvalidated = progress
    with run.computing():
        validation = validate(run, rows)
    check_finite(run, run.step - 1, {"validation loss": validation["loss"]})
    if validation["loss"] < run.best_loss:
        run.best_loss, run.best_epoch = validation["loss"], progress.epoch
        run.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in run.model.state_dict().items()}
    run.unvalidated = None
    return replace(progress, validation=validation)


def _record(
    progress: Progress,
    run: Run,
    checkpoint_manager: CheckpointManager,
    logs: tuple[TrainingLog, EventLog],
    report: Callable[[Progress], None],
) -> None:
    """Logs and reports `progress`, then has the best checkpoint and the state saved if they are due."""
    record = {name: value for name, value in vars(progress).items() if value is not None}
    for log in logs:
        log.append(record)
    if run.ranks.is_first:
        report(progress)
    if progress.validation is not None and run.best_epoch == progress.epoch:
        checkpoint_manager.keep_best()
    if progress.validation is not None or _is_saved(progress.step, run.settings):
        checkpoint_manager.save_beside()


def _is_saved(step: int, settings: TrainingSettings) -> bool:
    """Whether the state is saved after `step` steps whatever the clock says."""
    return settings.checkpoint_every_steps is not None and step % settings.checkpoint_every_steps == 0


def _stop_if_asked(run: Run, checkpoint_manager: CheckpointManager, should_stop: Callable[[], bool]) -> None:
    """Saves the state and raises `TrainingInterrupted` if steps remain and `should_stop` is true on any rank."""
    if run.step == run.num_steps:
        return
    with run.computing():
        is_stopped = run.ranks.any(should_stop())
    if is_stopped:
        message = checkpoint_manager.save()
        run.ranks.wait()  # torchrun kills the other ranks as soon as one exits
        raise TrainingInterrupted(message)


def start_run(
    packed: PackedFile,
    vocab: Vocab,
    model_settings: ModelSettings,
    settings: TrainingSettings,
    ranks: Ranks,
    announce: Callable[[str], object] = lambda _: None,
) -> Run:
    """A training before its first step; `announce` is called with lines about what takes a while.

    Raises:
        ValueError: "cuda" without a GPU, or no training posts.
    """
    device = pick_device(settings.device)
    if device.type == "cuda":  # with an index: a prefetching thread has its own current device
        device = torch.device("cuda", torch.cuda.current_device())
    rows = rows_of_split(packed, "train")
    announce(f"prepares batches of {len(rows):,} posts and {vocab.num_tags:,} tags")
    read_rows = DeviceCorpus(packed, device).read if fits_on(packed, device) else None
    batches = EpochBatches(packed, rows, settings.batch_posts, settings.seed, settings.batch_tokens, read_rows)
    ends = tuple(accumulate(batches.num_batches(epoch) for epoch in range(settings.num_epochs)))
    steps = Steps(ends, settings.max_steps)
    torch.manual_seed(settings.seed)
    model = SetEncoder(encoder_config(vocab, model_settings))
    model.start_from_frequencies(torch.from_numpy(vocab.counts / max(1, packed.num_posts)))
    if settings.initial_vectors != "random":
        announce("computes initial tag vectors from co-occurrence")
        start = start_from_correlation if settings.initial_vectors == "correlation" else start_from_ppmi
        start(model, packed, vocab, rows)
    model.to(device)
    dtype = pick_dtype(settings.precision, device)
    compile_for_device(model, device, dtype)
    edges = score_bin_edges(packed.rating[rows], packed.score[rows])
    tables = None
    if are_sampled(vocab.num_tags, settings):
        rates = learning_rates(steps.num_steps, settings)
        tables = SampledTables(model, torch.from_numpy(vocab.counts), settings.num_sampled_tags, rates)
    optimizer = Optimizer(model, settings, TABLES if tables else ())
    return Run(model, optimizer, batches, steps, settings, device, dtype, edges, ranks, tables)


def _publish(run: Run, checkpoint_manager: CheckpointManager, out_dir: Path, log: TrainingLog) -> TrainReport:
    if run.best_weights is not None:
        run.model.load_state_dict(run.best_weights)
    else:  # no validation split
        run.best_epoch = run.steps.epochs_done(run.num_steps)
    if run.ranks.is_first:
        checkpoint_manager.write_checkpoint(out_dir)
        log.copy_to(out_dir / LOG_FILE)
    return TrainReport(
        num_parameters=run.num_parameters,
        num_steps=run.num_steps,
        num_train_posts=len(run.batches.post_index),
        best_epoch=run.best_epoch,
        validation_loss=run.validation_loss,
        final_loss=log.records[-1]["loss"],
        seconds=run.seconds,
        precision=str(run.dtype).removeprefix("torch."),
        device=run.device.type,
    )


def _fingerprint(
    packed: PackedFile, vocab: Vocab, model_settings: ModelSettings, settings: TrainingSettings, run: Run
) -> str:
    content = hashlib.sha256()
    for array in (packed.tokens, packed.field_lengths, packed.post_id, packed.rating, packed.score):
        content.update(array.data)
    inputs = [
        vocab.hash,
        content.hexdigest(),
        section_version(packed.split_settings),
        section_version(model_settings),
        section_version(settings),
        str(run.dtype),
        run.device.type,
    ]
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()
