"""The decile of a score among training posts of the same rating, for training, evaluation and serving.

This module does not import torch: serving also runs on other engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import NUM_SCORE_BINS, RATINGS

if TYPE_CHECKING:
    from torch import Tensor

Numbers = TypeVar("Numbers", NDArray[np.int64], "Tensor")


def score_bin_edges(ratings: NDArray[np.uint8], scores: NDArray[np.int32]) -> list[list[float]]:
    """For each rating, the 9 inner decile edges of its `scores`; zeros for a rating without posts.

    Scores of different ratings are not comparable: the median of explicit posts is near the top decile of general ones.

    Args:
        ratings: uint8 ``[n]``, indices into ``schema.RATINGS``.
        scores: int32 ``[n]``.
    """
    shares = np.arange(1, NUM_SCORE_BINS) / NUM_SCORE_BINS
    edges = []
    for rating_id in range(len(RATINGS)):
        rating_scores = scores[ratings == rating_id]
        edges.append(
            np.quantile(rating_scores, shares, method="lower").tolist() if len(rating_scores) else [0.0] * len(shares)
        )
    return edges


def score_bins(scores: Numbers, edges: Numbers) -> Numbers:
    """int64 ``[N]``: the decile (0 to 9) of each score; a score that equals an edge is in the decile above it.

    Args:
        scores: int64 ``[N]``, an array or a tensor.
        edges: float64 ``[N, 9]``, an array or tensor like `scores`: the `score_bin_edges` of each score's rating.
    """
    bins: Numbers = (scores[..., None] >= edges).sum(-1)
    return bins
