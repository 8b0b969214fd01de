"""Unit vectors, as numpy computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """`vectors` (float ``[..., d]``) scaled to unit length along the last axis, in their dtype; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, np.float32(1), lengths), dtype=vectors.dtype)
