"""Runs of sets of equal length among packed tokens: each is a dense block without padding. Needs numpy alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Run(NamedTuple):
    """Consecutive sets of equal length."""

    tokens: slice
    """Their slice of the T tokens."""
    sets: slice
    """Their slice of the S sets."""
    shape: tuple[int, int]
    """(number of sets, tokens per set)."""


def runs_of(lengths: NDArray[np.int64]) -> list[Run]:
    """The runs of equal `lengths` (int64 ``[S]``), in order."""
    firsts = np.flatnonzero(np.diff(lengths, prepend=-1))
    num_sets = np.diff(firsts, append=len(lengths))
    runs, start = [], 0
    for first, num, length in zip(firsts.tolist(), num_sets.tolist(), lengths[firsts].tolist(), strict=True):
        runs.append(Run(slice(start, start + num * length), slice(first, first + num), (num, length)))
        start += num * length
    return runs
