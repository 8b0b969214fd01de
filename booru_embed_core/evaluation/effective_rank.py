"""Whether embeddings use the room that they have, or have collapsed to a few directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How embeddings lie.

    Attributes:
        mean_cosine: of all pairs of different rows; 1 where all rows are the same.
        effective_rank: directions that they use, 1 to min(rows, E).
    """

    mean_cosine: float
    effective_rank: float


def spread(vectors: NDArray[np.floating]) -> Spread:
    """The spread of `vectors`, unit rows ``[n, E]``, n at least 2, all finite.

    effective_rank = exp(-Σ λ_i ln λ_i), λ the eigenvalues of the second moments VᵀV / n, which sum to 1. As in Roy and
    Vetterli, The effective rank (EUSIPCO 2007), but of squared singular values and not centred: so a direction that all
    rows share counts by what it holds of their length, and rows that are all alike have rank 1 whatever noise is on
    them.
    """
    rows = vectors.astype(np.float64)
    n = len(rows)
    eigenvalues = np.linalg.eigvalsh(rows.T @ rows / n)
    shares = eigenvalues[eigenvalues > 0]
    total = rows.sum(axis=0)
    return Spread(
        mean_cosine=float((total @ total - (rows**2).sum()) / (n * (n - 1))),
        effective_rank=float(np.exp(-(shares * np.log(shares)).sum())),
    )
