"""Numbers as multiples of a scale, for formats that keep them in eight bits."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_ROUNDED_ROWS: Final = 16_384
"""Rows that are rounded at once: all of 189,000 tags would take three times the bytes of their vectors."""


def rounded(rows: NDArray[np.float32], levels: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`rows` ``[n, m]`` as multiples of a scale of each row, int8 between -`levels` and `levels`, and the scales."""
    levels_of, scales = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _ROUNDED_ROWS):
        part = slice(start, start + _ROUNDED_ROWS)
        own = np.maximum(np.abs(rows[part]).max(1), 1e-12) / levels
        levels_of[part], scales[part] = np.rint(rows[part] / own[:, None]), own
    return levels_of, scales
