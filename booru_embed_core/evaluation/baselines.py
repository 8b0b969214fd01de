"""The baselines without embeddings: popularity, naive Bayes, item-kNN, EASE and EDLAE, fitted on counts of pairs.

Each is a `Scorer`: visible tags in, a score for every tag out. They are fitted on training posts only; `tuning` chooses
their hyper-parameters. Baselines with a vector for each tag are in `tag_vectors`, `tag_table` and `item2vec`.

Pairs of tags are counted densely, so all but popularity know only the `max_tags` most used tags. The other tags are
ranked below these, by popularity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
from scipy import sparse

from booru_embed_core.tokens.cooccurrence import CaptionMatrix, Cooccurrence, Float32

NAIVE_BAYES_DAMPINGS: Final = (0.1, 0.2, 0.25, 0.3, 0.35, 0.5, 0.7, 1.0)
ITEM_KNN_NEIGHBOURS: Final = (5, 10, 20, 50)
ITEM_KNN_EXPONENTS: Final = (0.3, 0.5, 0.8, 0.9)
"""These three are the values that are tried on validation."""

_NAIVE_BAYES_PRIOR_POSTS: Final = 10.0
"""Pseudo-posts in which a tag is independent of the others; on the sample 1, 10 and 100 differ by .002."""


class Scorer(Protocol):
    """Completes captions."""

    @property
    def name(self) -> str:
        """The name in reports."""
        ...

    def scores(self, visible: CaptionMatrix) -> Float32:
        """A score for each tag, [n, num_tags], higher for likelier; scores of visible tags are ignored."""
        ...


@runtime_checkable
class EmbeddingScorer(Scorer, Protocol):
    """A scorer that also embeds captions."""

    def embed(self, visible: CaptionMatrix) -> Float32:
        """A vector for each caption, [n, dim], compared by cosine."""
        ...


@dataclass(frozen=True, eq=False)
class Popularity:
    """The most used tags for every post: s_t = P(t)."""

    pairs: Cooccurrence
    name: str = "popularity"

    def scores(self, visible: CaptionMatrix) -> Float32:
        """P(t) in each row, [n, num_tags]."""
        return np.broadcast_to(self.pairs.shares.astype(np.float32), visible.shape)


@dataclass(frozen=True, eq=False)
class NaiveBayes:
    """Damped naive Bayes on the visible tags: s_t = log P(t) + d · Σ_{v visible} log [P(v | t) / P(v)].

    P(v | t) = (n(v and t) + α P(v)) / (n(t) + α), α = 10: Laplace smoothing towards independence.
    d = 1 would be correct if tags were independent given t. They are not, so d is tuned.
    """

    pairs: Cooccurrence
    log_prior: Float32
    log_ratio: Float32
    damping: float
    name: str = "naive_bayes"

    def scores(self, visible: CaptionMatrix) -> Float32:
        """Damped log posteriors up to a constant per row, [n, num_tags]."""
        evidence = self.pairs.select(visible) @ self.log_ratio
        return self.pairs.expand(self.log_prior + np.float32(self.damping) * evidence)


def fit_naive_bayes(pairs: Cooccurrence, damping: float) -> NaiveBayes:
    """Fits naive Bayes with d = `damping`."""
    shares, alpha = pairs.shares[pairs.fitted], _NAIVE_BAYES_PRIOR_POSTS
    lifted = pairs.together / shares[:, None] + alpha
    log_ratio = np.log(lifted / (pairs.counts[pairs.fitted] + alpha))
    return NaiveBayes(pairs, np.log(shares).astype(np.float32), log_ratio.astype(np.float32), damping)


@dataclass(frozen=True, eq=False)
class Ease:
    """A linear model of each tag on all others: s = x B with diag(B) = 0, [m, m]."""

    pairs: Cooccurrence
    weights: Float32
    name: str = "ease"

    def scores(self, visible: CaptionMatrix) -> Float32:
        """x B, [n, num_tags]."""
        return self.pairs.expand(self.pairs.select(visible) @ self.weights)


def fit_ease(pairs: Cooccurrence, ridge: float, dropout: float = 0.0) -> Ease:
    """The closed form B = I - P diag(1 / P_tt), P = (XᵀX + Λ)⁻¹, in float64.

    Without dropout, Λ = `ridge` · I: EASE, the ridge regression of each tag on the others (Steck 2019, "Embarrassingly
    Shallow Autoencoders", section 3). With dropout p, Λ = `ridge` · I + p / (1 - p) · diag(XᵀX): EDLAE, the limit of
    that regression if each visible tag is hidden with probability p, as in the held-out tasks (Steck 2020,
    "Autoencoders that don't overfit towards the Identity", section 3).

    Raises:
        ValueError: `ridge` is not above 0, or `dropout` is not in [0, 1).
    """
    if not (ridge > 0 and 0 <= dropout < 1):
        raise ValueError(f"EASE with ridge {ridge} and dropout {dropout}; ridge must be above 0, dropout in [0, 1)")
    penalty = ridge + dropout / (1 - dropout) * pairs.counts[pairs.fitted]
    precision = np.linalg.inv(pairs.together + np.diag(penalty))
    weights = -precision / np.diag(precision)
    np.fill_diagonal(weights, 0)
    return Ease(pairs, weights.astype(np.float32), "edlae" if dropout else "ease")


@dataclass(frozen=True, eq=False)
class ItemKnn:
    """Tags that co-occur with the visible ones: s_t = Σ_{v visible} sim(v, t), sim [m, m] sparse, diagonal 0."""

    pairs: Cooccurrence
    similarities: CaptionMatrix
    name: str = "item_knn"

    def scores(self, visible: CaptionMatrix) -> Float32:
        """x sim, [n, num_tags]."""
        return self.pairs.expand((self.pairs.select(visible) @ self.similarities).toarray())


def fit_item_knn(pairs: Cooccurrence, num_neighbours: int, exponent: float) -> ItemKnn:
    """Fits sim(v, t) = n(v and t) / (n(v)^a · n(t)^(1 - a)), a = `exponent`, for the `num_neighbours` nearest v of a t.

    a = ½ is the cosine of two tags over posts, a = 1 is P(t | v) (Aiolli 2013, "Efficient Top-N Recommendation for Very
    Large Scale Binary Rated Datasets", section 3). Ties go to the lower tag index.
    """
    counts = np.maximum(pairs.counts[pairs.fitted], 1)
    similarities = pairs.together / np.outer(counts**exponent, counts ** (1 - exponent))
    np.fill_diagonal(similarities, 0)
    nearest = np.argsort(-similarities, axis=0, kind="stable")[:num_neighbours]
    kept = np.zeros_like(similarities)
    np.put_along_axis(kept, nearest, np.take_along_axis(similarities, nearest, axis=0), axis=0)
    return ItemKnn(pairs, sparse.csr_matrix(kept.astype(np.float32)))
