"""From packed tokens to a trained checkpoint: one process, any device, resumable at any step.

A step is a pure function of the weights, the optimizer's state and its own number: batches, splits and dropout are all
seeded by ``(seed, step)``. So a run that was stopped and resumed ends in the same bits on a CPU as one that was not.

What belongs here: the schedule of steps, validation, saving and reporting. Not what the loss is (``model/objective``)
nor what is on disk (``checkpoint``).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.objective import Captions, Losses, objective
from booru_embed_core.settings import ModelSettings, TrainingSettings, section_version
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.batches import Batch, EpochBatches, read_batch, rows_of_split, score_bin_edges, score_bins
from booru_embed_core.tokens.packed_file import PackedFile
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

VALIDATION_SEED: Final = 0x5EED
_LOG_EVERY_STEPS: Final = 10


class TrainingInterrupted(Exception):  # noqa: N818  not an error: the state is saved and the next run goes on from it
    """Training was asked to stop and saved its state."""


class NonFiniteLossError(ValueError):
    """The loss is NaN or infinite; the message names the step and the posts of its batch."""


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
    validation_loss: float
    final_loss: float
    seconds: float
    precision: str
    device: str


@dataclass
class _Run:
    """The moving parts of a training; everything else follows from the step's number."""

    model: SetEncoder
    optimizer: torch.optim.AdamW
    batches: EpochBatches
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
        return self.settings.num_epochs * len(self.batches)

    def captions(self, batch: Batch) -> Captions:
        bins = score_bins(self.edges, batch.ratings, batch.scores)
        return captions_of(batch, self.model.config.category_sizes, bins, self.device)

    def generator(self, *key: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(_mix(self.settings.seed, *key))


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
        NonFiniteLossError: the loss is no number any more; the last saved state is kept.
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
    log = _Log(work_dir / LOG_FILE, run.step)
    final_loss = math.nan
    for progress in _steps(run, packed):
        log.append(progress)
        report(progress)
        final_loss = progress.loss
        if progress.step % settings.checkpoint_every_steps == 0 or progress.validation is not None:
            save_state(work_dir, _state(run, fingerprint))
        if should_stop() and run.step < run.num_steps:
            save_state(work_dir, _state(run, fingerprint))
            raise TrainingInterrupted(f"stopped at step {run.step} of {run.num_steps}; the state is in {work_dir}")
    return _publish(run, packed, vocab, vocab_dir, out_dir, log, final_loss)


def captions_of(batch: Batch, category_sizes: tuple[int, ...], bins: torch.Tensor, device: torch.device) -> Captions:
    """The batch as the objective takes it, on `device`; `bins` are the score deciles, int64 ``[N]``."""
    return Captions(
        tags=batch.tag_indices(category_sizes).to(device, non_blocking=True),
        lengths=batch.field_lengths.sum(1).to(device, non_blocking=True),
        ratings=batch.ratings.to(device, non_blocking=True),
        score_bins=bins.to(device, non_blocking=True),
        max_length=batch.max_length,
    )


def pick_device(name: str) -> torch.device:
    """The device that a setting names; "auto" is the GPU where there is one.

    Raises:
        ValueError: "cuda" without a GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            'device = "cuda", but torch finds no GPU; install a CUDA build of torch or set device = "auto"'
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that the trunk computes in; "auto" is bf16 where the hardware multiplies it natively."""
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported()
        else:
            capabilities = torch.cpu.get_capabilities()
            native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def learning_rate(step: int, num_steps: int, settings: TrainingSettings) -> float:
    """The learning rate of `step` (0-based): linear warm-up, then half a cosine down to zero at `num_steps`."""
    num_warmup = max(1, round(settings.warmup_share * num_steps))
    if step < num_warmup:
        return settings.learning_rate * (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _start(packed: PackedFile, vocab: Vocab, model_settings: ModelSettings, settings: TrainingSettings) -> _Run:
    device = pick_device(settings.device)
    rows = rows_of_split(packed, "train")
    batches = EpochBatches(packed, rows, settings.batch_posts, settings.seed)
    torch.manual_seed(settings.seed)
    model = SetEncoder(encoder_config(vocab, model_settings))
    model.start_from_frequencies(torch.from_numpy(vocab.counts / max(1, packed.num_posts)))
    model.to(device)
    # Decay matrices alone: decaying a tag's vector would shrink rare tags, which seldom get a gradient to answer it.
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and not n.startswith(("tokens", "categories"))]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or n.startswith(("tokens", "categories"))]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    dtype = pick_dtype(settings.precision, device)
    return _Run(model, optimizer, batches, settings, device, dtype, score_bin_edges(packed, rows))


def _steps(run: _Run, packed: PackedFile) -> Iterator[Progress]:
    """Trains from `run.step` to the end, yielding after every logged step; validates at the end of each epoch."""
    validation_rows = rows_of_split(packed, "validation")
    started, first_step, before = time.monotonic(), run.step, run.seconds
    num_tokens, losses = 0, None
    while run.step < run.num_steps:
        epoch, index = divmod(run.step, len(run.batches))
        batch = run.batches.read(epoch, index)
        losses, rate = _step(run, batch)
        run.step += 1
        num_tokens += len(batch.tokens)
        ends_epoch = run.step % len(run.batches) == 0
        is_logged = run.step % _LOG_EVERY_STEPS == 0 or run.step % run.settings.checkpoint_every_steps == 0
        if not (ends_epoch or is_logged):
            continue
        validation = _validate(run, packed, validation_rows) if ends_epoch and len(validation_rows) else None
        epochs_done = run.step / len(run.batches)
        if validation is not None and validation["loss"] < run.best_loss:
            run.best_loss, run.best_epoch = validation["loss"], epochs_done
            run.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in run.model.state_dict().items()}
        elapsed = time.monotonic() - started
        run.seconds = before + elapsed
        loss = losses.total.item()
        if not math.isfinite(loss):
            _refuse(run, batch, loss)
        yield Progress(
            step=run.step,
            num_steps=run.num_steps,
            epoch=epochs_done,
            loss=loss,
            terms={name: term.item() for name, term in losses.terms.items()},
            learning_rate=rate,
            tokens_per_second=num_tokens / elapsed,
            eta_seconds=elapsed / (run.step - first_step) * (run.num_steps - run.step),
            validation=validation,
        )


def _step(run: _Run, batch: Batch) -> tuple[Losses, float]:
    rate = learning_rate(run.step, run.num_steps, run.settings)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    torch.manual_seed(_mix(run.settings.seed, run.step, 1))  # dropout's
    losses = objective(run.model, run.captions(batch), run.settings, run.generator(run.step), run.dtype)
    run.optimizer.zero_grad(set_to_none=True)
    losses.total.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.settings.clip_norm)
    if run.device.type == "cpu" and not math.isfinite(norm.item()):
        _refuse(run, batch, losses.total.item())
    run.optimizer.step()
    return losses, rate


@torch.no_grad()
def _validate(run: _Run, packed: PackedFile, rows: Any) -> dict[str, float]:
    """Mean terms over the validation split, each post split the same way every time."""
    run.model.eval()
    sums: dict[str, float] = {}
    for number, start in enumerate(range(0, len(rows), run.settings.batch_posts)):
        batch = read_batch(packed, rows[start : start + run.settings.batch_posts])
        generator = torch.Generator(run.device).manual_seed(_mix(VALIDATION_SEED, number))
        losses = objective(run.model, run.captions(batch), run.settings, generator, run.dtype)
        share = len(batch.post_index) / len(rows)
        for name, term in {"loss": losses.terms["bottleneck"] + losses.terms["head"], **losses.terms}.items():
            sums[name] = sums.get(name, 0.0) + share * term.item()
    run.model.train()
    return sums


def _refuse(run: _Run, batch: Batch, loss: float) -> None:
    ids = run.batches.packed.post_id[batch.post_index.numpy()]
    raise NonFiniteLossError(
        f"step {run.step}: loss {loss}, batch of {len(ids)} posts with ids {', '.join(map(str, ids[:8]))}, …; lower "
        f'[training] learning_rate (is {run.settings.learning_rate}) or set precision = "fp32"'
    )


def _publish(
    run: _Run, packed: PackedFile, vocab: Vocab, vocab_dir: Path, out_dir: Path, log: _Log, final_loss: float
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
        num_train_posts=len(run.batches.post_index),
        best_epoch=run.best_epoch,
        validation_loss=run.best_loss if math.isfinite(run.best_loss) else 0.0,
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
        final_loss=final_loss,
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
    # Saving more often does not make it another training.
    parts = [
        vocab.hash,
        hashlib.sha256(packed.post_id.tobytes() + packed.offsets.tobytes()).hexdigest(),
        section_version(packed.split_settings),
        section_version(model_settings),
        section_version(settings.model_copy(update={"checkpoint_every_steps": 1})),
        str(run.dtype),
        run.device.type,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _mix(*numbers: int) -> int:
    """A seed below 2**63 that depends on all of `numbers` and their order."""
    digest = hashlib.blake2b(json.dumps(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Log:
    """JSON lines in the work folder; a resumed run drops what came after the state it resumes from."""

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        kept = []
        if path.exists() and first_step:
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= first_step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def append(self, progress: Progress) -> None:
        record = {name: value for name, value in vars(progress).items() if value is not None}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def copy_to(self, path: Path) -> None:
        path.write_bytes(self.path.read_bytes())
