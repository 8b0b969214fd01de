"""Unit vectors of numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floating = TypeVar("Floating", bound="np.floating")


def unit_vectors(vectors: NDArray[Floating]) -> NDArray[Floating]:
    """`vectors` (float ``[..., d]``) scaled to unit length along the last axis, in their dtype; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, np.float32(1), lengths), dtype=vectors.dtype)
