"""The epoch, learning rate and seeds of a step, computed from its number."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from dataclasses import dataclass, replace

from booru_embed_core.settings import TrainingSettings


@dataclass(frozen=True)
class Steps:
    """The steps of a training by epoch. Epochs differ in length if batches are bounded by tokens."""

    ends: tuple[int, ...]
    """Number of steps done at the end of each epoch."""
    limit: int | None = None
    """The most steps that are taken, which may end an epoch early; None takes all."""

    @property
    def num_planned(self) -> int:
        """Number of steps in all epochs."""
        return self.ends[-1]

    @property
    def num_steps(self) -> int:
        """Number of steps that are taken."""
        return self.num_planned if self.limit is None else min(self.limit, self.num_planned)

    def limited(self, limit: int | None) -> Steps:
        """These steps, of which no more than `limit` are taken."""
        limits = [one for one in (self.limit, limit) if one is not None]
        return replace(self, limit=min(limits, default=None))

    def is_end(self, step: int) -> bool:
        """Whether an epoch or the training ends after `step` steps."""
        return step in self.ends or step == self.num_steps

    def position(self, step: int) -> tuple[int, int]:
        """(epoch, index within the epoch) of `step`, all 0-based; (number of epochs, 0) after the last step."""
        epoch = bisect_right(self.ends, step)
        return epoch, step - (self.ends[epoch - 1] if epoch else 0)

    def epochs_done(self, step: int) -> float:
        """Epochs done after `step` steps; a whole number at the end of an epoch."""
        epoch, index = self.position(step)
        return epoch + (index / (self.ends[epoch] - step + index) if index else 0.0)


def learning_rate(step: int, num_steps: int, settings: TrainingSettings) -> float:
    """The learning rate of `step` (0-based): linear warm-up, then down to zero at `num_steps`."""
    num_warmup = max(1, round(settings.warmup_share * num_steps))
    if step < num_warmup:
        return settings.learning_rate * (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    left = 1 - done if settings.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * left


def learning_rates(num_steps: int, settings: TrainingSettings) -> list[float]:
    """The learning rate of every step of a training of `num_steps`."""
    return [learning_rate(step, num_steps, settings) for step in range(num_steps)]


def derive_seed(*numbers: int) -> int:
    """A seed below 2**63 that depends on all of `numbers` and their order."""
    digest = hashlib.blake2b(json.dumps(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
