"""The weights of a checkpoint as arrays over their file, checked against its config; nothing here needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.training.checkpoint_config import REMEDY, CheckpointConfig, CheckpointError, verify_weights
from booru_embed_core.training.mapped_weights import MappedWeights
from booru_embed_core.training.weights_layout import SCALES, TABLE, VOCAB_KEY, Precision, check_weights


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """A file of weights that are those of its config.

    Attributes:
        file: its path.
        mapped: its tensors.
        precision: in which it keeps them.
        has_checksum: whether one covers it.
    """

    file: Path
    mapped: MappedWeights
    precision: Precision
    has_checksum: bool

    @classmethod
    def read(cls, file: Path, config: CheckpointConfig) -> Self:
        """The weights in `file`.

        Raises:
            CheckpointError: it is missing, damaged, not of `config`, or of another vocabulary.
        """
        has_checksum = verify_weights(file, config)
        mapped = MappedWeights(file)
        precision = check_weights(file, config, mapped.layouts, mapped.metadata.get(VOCAB_KEY, ""))
        return cls(file, mapped, precision, has_checksum)

    @property
    def num_parameters(self) -> int:
        """Numbers that training has learned."""
        return sum(math.prod(shape) for name, (_, shape) in self.mapped.layouts.items() if name != SCALES)

    def check_finite(self) -> None:
        """Looks at every weight.

        Raises:
            CheckpointError: one is NaN or infinite.
        """
        if spoilt := self.mapped.spoilt():
            raise CheckpointError(f"{self.file}: {spoilt} has weights that are NaN or infinite; {REMEDY}")


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
