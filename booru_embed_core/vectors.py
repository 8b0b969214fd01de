"""Unit vectors of numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK: Final = 64
Floating = TypeVar("Floating", bound="np.floating")


def unit_vectors(vectors: NDArray[Floating]) -> NDArray[Floating]:
    """`vectors` (float ``[..., d]``) scaled to unit length along the last axis, in their dtype; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, np.float32(1), lengths), dtype=vectors.dtype)


def top_k(values: NDArray[np.float32], candidates: NDArray[np.int64] | None, k: int) -> list[int]:
    """`k` of `candidates` (ascending indices into `values`, or None for all) with the highest values; ties by index."""
    found = values if candidates is None else values[candidates]
    num_blocks = len(found) // _BLOCK
    if k < num_blocks:
        # At least k values reach the k-th highest maximum of a block: a tenth of the time of a partition of all.
        highest = found[: num_blocks * _BLOCK].reshape(num_blocks, _BLOCK).max(axis=1)
        candidates, found = _at_least(np.partition(highest, -k)[-k], candidates, found)
    if k < len(found):  # sorting a large vocabulary would take longer than a small network
        candidates, found = _at_least(np.partition(found, -k)[-k], candidates, found)
    order = np.argsort(-found, kind="stable")[:k]
    return [int(i) for i in (order if candidates is None else candidates[order])]


def _at_least(
    least: np.float32, candidates: NDArray[np.int64] | None, values: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    kept = np.flatnonzero(values >= least)
    return kept if candidates is None else candidates[kept], values[kept]
