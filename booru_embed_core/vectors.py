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


def top_k(values: NDArray[np.float32], candidates: NDArray[np.int64], k: int) -> list[int]:
    """The `k` of `candidates` (ascending indices into `values`) with the highest values; ties by index."""
    if k < len(candidates):  # sorting a large vocabulary would take longer than a small network
        least = np.partition(values[candidates], -k)[-k]
        candidates = candidates[values[candidates] >= least]
    order = np.argsort(-values[candidates], kind="stable")[:k]
    return [int(i) for i in candidates[order]]
