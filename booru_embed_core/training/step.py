"""The computation of each rank in a training step and in validation.

What belongs here: from a batch to gradients. The loop over steps is in ``loop``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.objective import TERMS, CaptionBatch, Losses, objective, weighted_total
from booru_embed_core.model.rank_shard import RankShard
from booru_embed_core.settings import TrainingSettings
from booru_embed_core.tokens.batches import Batch, EpochBatches, batch_starts
from booru_embed_core.tokens.score_bins import score_bins
from booru_embed_core.training.distributed import Ranks
from booru_embed_core.training.optimizer import Optimizer
from booru_embed_core.training.progress import Progress
from booru_embed_core.training.sampled_tables import SampledTables
from booru_embed_core.training.schedule import Steps, derive_seed, learning_rates

VALIDATION_SEED: Final = 0x5EED


class NonFiniteLossError(ValueError):
    """Non-finite loss or gradient; the message names the step and the posts of its batch.

    Args:
        message: one line.
        post_ids: ids of all posts in the batch.
    """

    def __init__(self, message: str, post_ids: list[int]) -> None:
        super().__init__(message)
        self.post_ids = post_ids


@dataclass
class Run:
    """The state of a training; everything else follows from the step's number."""

    model: SetEncoder
    optimizer: Optimizer
    batches: EpochBatches
    steps: Steps
    settings: TrainingSettings
    device: torch.device
    dtype: torch.dtype
    edges: list[list[float]]
    ranks: Ranks
    tables: SampledTables | None = None
    """The tables of a vocabulary of which each step scores a sample; None if it scores every tag."""
    encode: Callable[..., Tensor] | None = None
    """The `forward` of `network`, wrapped so that `backward` sums gradients over the ranks; None with a single rank."""
    step: int = 0
    best_loss: float = math.inf
    best_epoch: float = 0.0
    best_weights: dict[str, torch.Tensor] | None = None
    started: float = field(default_factory=time.monotonic)
    """Start on the clock `time.monotonic`, moved back by the training time of earlier processes."""
    unvalidated: Progress | None = None
    """The last step's report while the validation of its epoch runs, else None."""
    is_over: bool = False
    """Whether training ended or failed: its state must no longer be saved."""
    changes: threading.Lock = field(default_factory=threading.Lock)
    """Held by the training thread, except during `computing`."""

    @contextmanager
    def computing(self, hand_over: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """A block in which the training's state does not change, so that another thread may save it.

        Args:
            hand_over: whether another thread was given `changes`. That thread releases it; the block's end waits.
        """
        if not hand_over():
            self.changes.release()
        try:
            yield
        finally:
            self.changes.acquire()

    @property
    def network(self) -> SetEncoder:
        """The network that computes the objective: the model, or one with the tables of a step's sample."""
        return self.model if self.tables is None else self.tables.network

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all its processes."""
        return time.monotonic() - self.started

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def validation_loss(self) -> float | None:
        """The lowest validation loss so far; None before the first validation, or without a validation split."""
        return None if self.best_weights is None else self.best_loss

    @property
    def num_steps(self) -> int:
        """Number of steps of the training."""
        return self.steps.num_steps

    def limit(self, num_steps: int | None) -> None:
        """Ends the training after `num_steps` steps: its schedule is that of as many."""
        self.steps = self.steps.limited(num_steps)
        if self.tables is not None:
            self.tables.set_rates(self._rates)

    def restart(self, rates: Sequence[float] | None = None) -> None:
        """Forgets all steps but not what they changed; `rates` of those to come are by default the schedule's."""
        self.optimizer.restart()
        if self.tables is not None:
            self.tables.restart(self._rates if rates is None else rates)

    @property
    def _rates(self) -> list[float]:
        return learning_rates(self.num_steps, self.settings)

    def draw_tags(self, batch: Batch, generator: torch.Generator | None = None) -> None:
        """Draws the tags that the step of `batch` scores, by default by the step's own number, and loads their rows.

        Does nothing if every tag is scored. It changes the state: call it outside `computing`.
        """
        if self.tables is not None:
            tags = batch.tag_indices(self.model.config.category_sizes).to(self.device)
            self.tables.load(tags, generator or self.generator(self.step, 2), self.step)

    def captions(self, batch: Batch) -> CaptionBatch:
        """`batch` as input for the objective of `network`, on the run's device."""
        edges = torch.tensor(self.edges, dtype=torch.float64, device=batch.scores.device)
        bins = score_bins(batch.scores, edges[batch.ratings])
        captions = captions_of(batch, self.model.config.category_sizes, bins, self.device)
        return captions if self.tables is None else self.tables.network.localized(captions)

    def take_step(self, rate: float) -> None:
        """Updates the weights from their gradients, at learning rate `rate`."""
        self.optimizer.step(rate)
        if self.tables is not None:
            self.tables.step(self.step)
        self.step += 1

    def weight(self, batch: Batch) -> float:
        """The weight of the mean loss of `batch`: its number of records over the mean; 1 with `batch_posts`."""
        if self.settings.batch_tokens is None:
            return 1.0
        mean = len(self.batches.post_index) * self.settings.num_epochs / self.steps.num_planned
        return len(batch.post_index) / mean

    def generator(self, *key: int) -> torch.Generator:
        """A generator seeded by `key` and the settings' seed."""
        return torch.Generator(self.device).manual_seed(derive_seed(self.settings.seed, *key))


def captions_of(
    batch: Batch, category_sizes: tuple[int, ...], bins: torch.Tensor, device: torch.device
) -> CaptionBatch:
    """`batch` as input for the objective, on `device`; `bins` are the score deciles, int64 ``[N]``."""
    return CaptionBatch(
        tags=batch.tag_indices(category_sizes).to(device, non_blocking=True),
        lengths=batch.field_lengths.sum(1).to(device, non_blocking=True),
        ratings=batch.ratings.to(device, non_blocking=True),
        score_bins=bins.to(device, non_blocking=True),
        max_length=batch.max_length,
    )


def compute_step(run: Run, batch: Batch) -> Losses:
    """The losses of the next step, the same on every rank; leaves clipped gradients in the parameters.

    Raises:
        NonFiniteLossError: non-finite loss or gradient norm.
    """
    losses = rank_losses(run, batch, run.ranks.shard)
    run.optimizer.zero_grad()
    (losses.total * run.weight(batch)).backward()  # type: ignore[no-untyped-call]
    rows = () if run.tables is None else run.tables.leaves
    for leaf in rows:
        assert leaf.grad is not None
        leaf.grad = run.ranks.sum(leaf.grad)
    if run.ranks.num_ranks > 1:
        sums = run.ranks.sum(torch.stack([term.detach() for term in losses.terms.values()]))
        terms = dict(zip(losses.terms, sums, strict=True))
        losses = Losses(weighted_total(terms, run.settings), terms)
    norm = torch.nn.utils.clip_grad_norm_([*run.optimizer.parameters, *rows], run.settings.clip_norm)
    # Synchronises with a GPU, so that the weights are still unchanged if the step fails.
    check_finite(run, run.step, {"loss": losses.total.item(), "gradient norm": norm.item()})
    return losses


def rank_losses(run: Run, batch: Batch, shard: RankShard) -> Losses:
    """The contribution to the loss of `batch` that the rank of `shard` computes."""
    key = (run.step, 1, shard.rank) if shard.rank else (run.step, 1)
    torch.manual_seed(derive_seed(run.settings.seed, *key))  # for dropout
    generator = run.generator(run.step)
    return objective(run.network, run.captions(batch), run.settings, generator, run.dtype, run.encode, shard)


@torch.no_grad()
def validate(run: Run, rows: NDArray[np.int64]) -> dict[str, float]:
    """Mean loss terms over the posts `rows` (int64 ``[n]``), which are split the same way every time.

    Batches are distributed over the ranks. Every rank sums the terms in batch order, so the means do not depend on the
    number of ranks.
    """
    run.model.eval()
    bounds = list(
        pairwise(batch_starts(run.batches.packed, rows, run.settings.batch_posts, run.settings.batch_tokens).tolist())
    )
    names = ("loss", *TERMS)
    values = torch.zeros(len(bounds), len(names), dtype=torch.float64)
    for number in range(run.ranks.rank, len(bounds), run.ranks.num_ranks):
        start, end = bounds[number]
        batch = run.batches.read_rows(rows[start:end])
        generator = torch.Generator(run.device).manual_seed(derive_seed(VALIDATION_SEED, number))
        run.draw_tags(batch, generator)
        terms = objective(run.network, run.captions(batch), run.settings, generator, run.dtype).terms
        loss = terms["bottleneck"] + terms["head"]
        values[number] = torch.stack([loss, *(terms[name] for name in TERMS)])
    run.model.train()
    sums = dict.fromkeys(names, 0.0)
    for (start, end), batch_values in zip(bounds, run.ranks.sum(values).tolist(), strict=True):
        for name, value in zip(names, batch_values, strict=True):
            sums[name] += (end - start) / len(rows) * value
    return sums


def check_finite(run: Run, step: int, numbers: Mapping[str, float]) -> None:
    """Checks the `numbers` of `step`, counted from 0.

    Raises:
        NonFiniteLossError: one of them is NaN or infinite.
    """
    bad = ", ".join(f"{name} {number}" for name, number in numbers.items() if not math.isfinite(number))
    if not bad:
        return
    ids = run.batches.packed.post_id[run.batches.rows(*run.steps.position(step))].tolist()
    shown = ", ".join(map(str, ids[:8])) + (", …" if len(ids) > 8 else "")
    raise NonFiniteLossError(
        f"step {step + 1}: {bad} on a batch of {len(ids)} posts with ids {shown}; lower [training] learning_rate "
        f'(now {run.settings.learning_rate}) or set precision = "fp32" (now "{run.settings.precision}")',
        ids,
    )
