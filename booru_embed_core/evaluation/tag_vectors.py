"""Baselines with a vector for each tag that pool a caption's vectors: what they share, PPMI-SVD and LSA.

The trained table is in `tag_table`, item2vec in `item2vec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from booru_embed_core.evaluation.baselines import Fitted, blocks
from booru_embed_core.tokens.cooccurrence import (
    CaptionMatrix,
    Cooccurrence,
    Float32,
    Float64,
    ppmi_factors,
    truncated_svd,
)
from booru_embed_core.vectors import unit_vectors

Rule: TypeAlias = Literal["cosine", "product"]
RULES: Final[tuple[Rule, ...]] = ("cosine", "product")
Weighting: TypeAlias = Literal["binary", "idf"]
WEIGHTINGS: Final[tuple[Weighting, ...]] = ("binary", "idf")

PPMI_DIM: Final = 256
"""A quarter, half and all of it are tried on validation."""
LSA_DIMS: Final = (16, 32, 64, 128, 256)
"""Tried on validation, with each weighting."""


@dataclass(frozen=True, eq=False)
class TagVectors(Fitted):
    """An input vector and an output vector for each tag; a caption's embedding is the mean of its input vectors.

    Attributes:
        name: the name in reports.
        pairs: counts, which also name the fitted tags.
        vectors: input vectors of the fitted tags, [m, dim].
        targets: output vectors of the fitted tags, [m, dim].
        centre: the mean input vector over all uses of tags, [dim].
        prior: a score of each fitted tag that does not depend on the caption, [m].
    """

    name: str
    pairs: Cooccurrence
    vectors: Float32
    targets: Float32
    centre: Float32
    prior: Float32

    def fitted_scores(self, visible: CaptionMatrix) -> Float32:
        """prior_t + Σ_{v visible} vectors_v · targets_t of the fitted tags t, [n, m]."""
        scores: Float32 = self.prior + (self.pairs.select(visible) @ self.vectors) @ self.targets.T
        return scores

    def embed(self, visible: CaptionMatrix) -> Float32:
        """The mean of the tags' vectors minus `centre`, [n, dim]; zero for a caption without fitted tags."""
        selected = self.pairs.select(visible)
        num_tags = selected.getnnz(axis=1)[:, None]
        means = (selected @ self.vectors) / np.maximum(num_tags, 1) - self.centre
        return np.where(num_tags > 0, means, 0).astype(np.float32)


def tag_vectors(
    name: str,
    pairs: Cooccurrence,
    vectors: Float64 | Float32,
    targets: Float64 | Float32,
    prior: Float64 | None = None,
) -> TagVectors:
    """A scorer from `vectors` and `targets`, [m, dim], in the order of ``pairs.fitted``; `prior` [m] is 0 if None."""
    uses = pairs.counts[pairs.fitted]
    prior = np.zeros(len(uses)) if prior is None else prior
    centre = uses @ vectors / max(1.0, float(uses.sum()))
    as_float32 = (array.astype(np.float32) for array in (vectors, targets, centre, prior))
    return TagVectors(name, pairs, *as_float32)


@dataclass(frozen=True, eq=False)
class PpmiFactors:
    """PPMI ≈ U S Vᵀ, the source of scorers of any smaller dimension; U, V float64[m, dim], S float64[dim]."""

    pairs: Cooccurrence
    left: Float64
    singular: Float64
    right: Float64

    def scorer(self, dim: int, rule: Rule) -> TagVectors:
        """The scorer of the first `dim` factors.

        ``"cosine"``: a tag's vector is V_t, and scores are cosines up to the caption's length, which changes no rank.
        ``"product"``: input vectors are U_v S, output vectors V_t, so scores are sums of the smoothed PPMI.
        """
        right = self.right[:, :dim]
        if rule == "cosine":
            return tag_vectors("ppmi_svd", self.pairs, right, unit_vectors(right))
        return tag_vectors("ppmi_svd", self.pairs, self.left[:, :dim] * self.singular[:dim], right)


def factor_ppmi(pairs: Cooccurrence, dim: int) -> PpmiFactors:
    """The first `dim` factors of the PPMI of `pairs` (`cooccurrence.ppmi_factors`)."""
    return PpmiFactors(pairs, *ppmi_factors(pairs, dim))


@dataclass(frozen=True, eq=False)
class LsaFactors:
    """The weighted captions X W ≈ U S Vᵀ, W = diag(`weights`); only V, float64[m, dim], is kept."""

    pairs: Cooccurrence
    weights: Float64
    right: Float64

    def scorer(self, dim: int) -> TagVectors:
        """The scorer of the first `dim` factors: a caption x is folded in as x W V, and s = (x W V) Vᵀ W⁻¹."""
        right = self.right[:, :dim]
        return tag_vectors("lsa", self.pairs, right * self.weights[:, None], right / self.weights[:, None])


def factor_lsa(pairs: Cooccurrence, dim: int, weighting: Weighting) -> LsaFactors:
    """The first `dim` factors of the matrix of posts and tags.

    Deerwester et al. 1990, "Indexing by Latent Semantic Analysis". V comes from W XᵀX W, which has the same right
    factors as X W, so the posts are not read a second time. ``"idf"`` weights a tag by log(1 + posts / its posts),
    ``"binary"`` by 1.
    """
    counts = np.maximum(pairs.counts[pairs.fitted], 1)
    weights = np.log1p(pairs.num_posts / counts) if weighting == "idf" else np.ones_like(counts)
    weighted = pairs.together.astype(np.float64)
    for rows in blocks(len(weights)):
        weighted[rows] *= np.outer(weights[rows], weights)
    right = truncated_svd(weighted, dim)[2]
    return LsaFactors(pairs, weights, right)
