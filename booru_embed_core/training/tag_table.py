"""The tags' vectors of a checkpoint as arrays: rows become float32 when they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.training.mapped_weights import MappedWeights
from booru_embed_core.training.weights_layout import SCALES, TABLE


@dataclass(frozen=True, eq=False)
class TagTable:
    """The vector of each token: `levels` ``[R, d]`` in float32, float16 or int8, times `scales` ``[R]`` for int8."""

    levels: NDArray[Any]
    scales: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, weights: MappedWeights) -> Self:
        """The table of a file that `check_weights` has passed."""
        scales: NDArray[np.float32] | None = weights.arrays.get(SCALES)
        return cls(weights.arrays[TABLE], scales)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        """The vectors of `rows`, float32 ``[n, d]``: a view only of a slice of float32, which nobody may change."""
        found: NDArray[np.float32] = self.levels[rows].astype(np.float32, copy=False)
        return found if self.scales is None else np.multiply(found, self.scales[rows, None], out=found)
