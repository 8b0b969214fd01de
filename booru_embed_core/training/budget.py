"""Practice runs: how much is validated, and how many steps fit into a number of minutes.

Minutes are turned into steps before the first one. A few steps are tried at learning rate 0, with the optimizer's
update, and what they leave in its state is dropped. So a training of `max_minutes` is, bit for bit, one of `max_steps`
with the number of steps that was found; that number depends on the speed of the machine at its start.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from booru_embed_core.tokens.prefetch import prefetch
from booru_embed_core.training.schedule import Steps
from booru_embed_core.training.step import Run, compute_step, validate

_MIN_VALIDATED: Final = 4096
"""Posts that a validation of a practice run takes at least: the standard error of the loss is then below 1%."""
_TRIED_STEPS: Final = 4
"""Steps tried after the first, which also warms up; more while they take less than `_TRIED_SHARE` of the budget."""
_TRIED_SHARE: Final = 0.005
_TRIED_POSTS: Final = 512
"""Posts of the validation tried."""


def validated_rows(steps: Steps, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The posts of `rows` that are validated: all, or an even sample if training ends within the first epoch.

    The sample is as much of `rows` as the training takes of the epoch, so that it takes the same share of the time.
    """
    num = _num_validated(steps, len(rows))
    return rows[np.arange(num) * len(rows) // max(1, num)]


def _num_validated(steps: Steps, num_rows: int) -> int:
    share = steps.num_steps / steps.ends[0]
    return min(num_rows, max(_MIN_VALIDATED, round(share * num_rows)))


def limit_to_minutes(run: Run, rows: NDArray[np.int64], minutes: float, announce: Callable[[str], object]) -> None:
    """Limits `run`, which is before its first step, to the steps that end `minutes` after ``run.started``.

    All ranks call it, and agree on the number.

    Args:
        run: the training.
        rows: int64 ``[n]``, the posts of the validation split.
        minutes: on the clock; includes everything that the training did before.
        announce: called with a line about what was found.
    """
    announce("measures the speed of a few steps")
    step_seconds = _step_seconds(run, minutes)
    post_seconds = _timed(partial(validate, run, rows[:_TRIED_POSTS])) / len(rows[:_TRIED_POSTS]) if len(rows) else 0.0
    left = 60 * minutes - run.seconds

    def seconds_of(num_steps: int) -> float:
        steps = run.steps.limited(num_steps)
        num_validated = sum(end < num_steps for end in steps.ends) * len(rows) + _num_validated(steps, len(rows))
        return num_steps * step_seconds + num_validated * post_seconds

    num_steps = max(1, bisect_right(range(1, run.num_steps + 1), left, key=seconds_of))
    run.limit(int(run.ranks.sum(torch.tensor(num_steps if run.ranks.is_first else 0))))
    announce(
        f"{minutes:g} minutes are {run.num_steps:,} of {run.steps.num_planned:,} steps, at {step_seconds:.2f} s a step"
    )


def _step_seconds(run: Run, minutes: float) -> float:
    """Mean seconds of a step. The weights are as before; the gradients are not."""
    tried: list[float] = []
    run.restart([0.0])
    with prefetch(run.batches.read_from(0, 0, 1)) as batches:
        for batch in batches:
            start = time.monotonic()
            run.draw_tags(batch)
            with run.computing():
                compute_step(run, batch)
            run.take_step(0.0)
            run.step = 0
            tried.append(time.monotonic() - start)
            is_short = sum(tried[1:]) < 60 * minutes * _TRIED_SHARE
            if not run.ranks.any(len(tried) <= _TRIED_STEPS or (run.ranks.is_first and is_short)):
                break
    run.restart()
    return float(np.mean(tried[1:] or tried))


def _timed(action: Callable[[], object]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start
