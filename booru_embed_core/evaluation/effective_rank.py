"""Isotropy of embeddings: whether they use all their dimensions or have collapsed to a few directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 16_384
"""Rows that are taken to float64 at once: 17 MB of 128 numbers each."""


@dataclass(frozen=True, kw_only=True)
class Isotropy:
    """How evenly embeddings use their directions.

    Attributes:
        mean_cosine: over all pairs of different rows, by the product of their weights; 1 when all rows are equal.
        effective_rank: number of directions in use, 1 to min(rows, E).
    """

    mean_cosine: float
    effective_rank: float


def isotropy(vectors: NDArray[np.floating], weights: NDArray[np.number] | None = None) -> Isotropy:
    """The isotropy of `vectors`: unit rows ``[n, E]``, n at least 2, all finite.

    effective_rank = exp(-Σ λ_i ln λ_i), with λ the eigenvalues of the second moments Σ w_i v_i v_iᵀ, which sum to 1.
    This is Roy and Vetterli, "The effective rank" (EUSIPCO 2007), on squared singular values and without centring. A
    direction that all rows share therefore counts by its share of their length, and nearly equal rows have rank 1
    despite noise.

    Args:
        vectors: the rows.
        weights: ``[n]``, of each row, not negative and of several rows not 0; None for equal ones.
    """
    n, dim = vectors.shape
    shares = np.full(n, 1 / n) if weights is None else weights / np.sum(weights)
    moments, total, squares = np.zeros((dim, dim)), np.zeros(dim), 0.0
    for start in range(0, n, _BLOCK):
        rows, of_rows = vectors[start : start + _BLOCK].astype(np.float64), shares[start : start + _BLOCK]
        weighted = rows * of_rows[:, None]
        moments += rows.T @ weighted
        total += weighted.sum(axis=0)
        squares += float((weighted**2).sum())
    eigenvalues = np.linalg.eigvalsh(moments)
    positive = eigenvalues[eigenvalues > 0]
    return Isotropy(
        mean_cosine=float((total @ total - squares) / (1 - shares @ shares)),
        effective_rank=float(np.exp(-(positive * np.log(positive)).sum())),
    )
