"""What follows from the number of a step alone: its learning rate, and the seeds of all that is random in it."""

from __future__ import annotations

import hashlib
import json
import math

from booru_embed_core.settings import TrainingSettings


def learning_rate(step: int, num_steps: int, settings: TrainingSettings) -> float:
    """The learning rate of `step` (0-based): linear warm-up, then half a cosine down to zero at `num_steps`."""
    num_warmup = max(1, round(settings.warmup_share * num_steps))
    if step < num_warmup:
        return settings.learning_rate * (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def mixed_seed(*numbers: int) -> int:
    """A seed below 2**63 that depends on all of `numbers` and their order."""
    digest = hashlib.blake2b(json.dumps(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
