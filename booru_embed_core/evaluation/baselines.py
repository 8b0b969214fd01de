"""The baselines without embeddings: popularity, naive Bayes, item-kNN, EASE and EDLAE, fitted on counts of pairs.

Each is a `Scorer`: visible tags in, a score for every tag out. They are fitted on training posts only; `tuning` chooses
their hyper-parameters. Baselines with a vector for each tag are in `tag_vectors`, `tag_table` and `item2vec`.

Pairs of tags are counted densely, so all but popularity know only the `max_tags` most used tags. The other tags are
ranked below these, by popularity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from booru_embed_core.tokens.cooccurrence import CaptionMatrix, Cooccurrence, Float32, Float64

NAIVE_BAYES_DAMPINGS: Final = (0.1, 0.2, 0.25, 0.3, 0.35, 0.5, 0.7, 1.0)
ITEM_KNN_NEIGHBOURS: Final = (5, 10, 20, 50)
ITEM_KNN_EXPONENTS: Final = (0.3, 0.5, 0.8, 0.9)
"""These three are the values that are tried on validation."""

_NAIVE_BAYES_PRIOR_POSTS: Final = 10.0
"""Pseudo-posts in which a tag is independent of the others; on the sample 1, 10 and 100 differ by .002."""

_BLOCK: Final = 512


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


@runtime_checkable
class FittedScorer(Scorer, Protocol):
    """A scorer that knows the tags of `pairs` alone, and ranks the others below these, by popularity."""

    @property
    def pairs(self) -> Cooccurrence:
        """Counts, which also name the fitted tags."""
        ...

    def fitted_scores(self, visible: CaptionMatrix) -> Float32:
        """A score for each of the m fitted tags, [n, m]."""
        ...


class Fitted:
    """What baselines share: scores of all tags from those of the fitted ones."""

    pairs: Cooccurrence

    def fitted_scores(self, visible: CaptionMatrix) -> Float32:
        raise NotImplementedError

    def scores(self, visible: CaptionMatrix) -> Float32:
        """Scores of all tags, [n, num_tags]."""
        return self.pairs.expand(self.fitted_scores(visible))


@dataclass(frozen=True, eq=False)
class Popularity:
    """The most used tags for every post: s_t = P(t)."""

    pairs: Cooccurrence
    name: str = "popularity"

    def fitted_scores(self, visible: CaptionMatrix) -> Float32:
        """P(t) of the fitted tags in each row, [n, m]."""
        return self.scores(visible)[:, self.pairs.fitted]

    def scores(self, visible: CaptionMatrix) -> Float32:
        """P(t) in each row, [n, num_tags]."""
        return np.broadcast_to(self.pairs.shares.astype(np.float32), visible.shape)


@dataclass(frozen=True, eq=False)
class NaiveBayes(Fitted):
    """Damped naive Bayes on the visible tags: s_t = log P(t) + d · Σ_{v visible} log [P(v | t) / P(v)].

    P(v | t) = (n(v and t) + α P(v)) / (n(t) + α), α = 10: Laplace smoothing towards independence.
    d = 1 would be correct if tags were independent given t. They are not, so d is tuned.
    """

    pairs: Cooccurrence
    log_prior: Float32
    log_ratio: Float32
    damping: float
    name: str = "naive_bayes"

    def fitted_scores(self, visible: CaptionMatrix) -> Float32:
        """Damped log posteriors up to a constant per row, [n, m]."""
        evidence = self.pairs.select(visible) @ self.log_ratio
        scores: Float32 = self.log_prior + np.float32(self.damping) * evidence
        return scores


def fit_naive_bayes(pairs: Cooccurrence, damping: float) -> NaiveBayes:
    """Fits naive Bayes with d = `damping`."""
    return next(fit_naive_bayes_each(pairs, (damping,)))


def fit_naive_bayes_each(pairs: Cooccurrence, dampings: Iterable[float]) -> Iterator[NaiveBayes]:
    """Fits naive Bayes with each of `dampings`; they share the counts' logarithms."""
    shares, alpha = pairs.shares[pairs.fitted], _NAIVE_BAYES_PRIOR_POSTS
    log_ratio = np.empty(pairs.together.shape, np.float32)
    for rows in blocks(len(shares)):
        lifted = pairs.together[rows] / shares[rows, None] + alpha
        log_ratio[rows] = np.log(lifted / (pairs.counts[pairs.fitted] + alpha))
    log_prior = np.log(shares).astype(np.float32)
    for damping in dampings:
        yield NaiveBayes(pairs, log_prior, log_ratio, damping)


@dataclass(frozen=True, eq=False)
class Ease(Fitted):
    """A linear model of each tag on all others: s = x B with diag(B) = 0, [m, m]."""

    pairs: Cooccurrence
    weights: Float32
    name: str = "ease"

    def fitted_scores(self, visible: CaptionMatrix) -> Float32:
        """x B, [n, m]."""
        scores: Float32 = self.pairs.select(visible) @ self.weights
        return scores


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
    precision = _inverse(pairs.together, penalty).T  # symmetric, so this is the same matrix in C order
    diagonal = np.diag(precision).copy()
    # The weights take the place of the inverse: row i of float32 ends before row i of float64 begins.
    weights = precision.ravel().view(np.float32)[: precision.size].reshape(precision.shape)
    for rows in blocks(len(weights)):
        weights[rows] = -precision[rows] / diagonal
    np.fill_diagonal(weights, 0)
    return Ease(pairs, weights, "edlae" if dropout else "ease")


def _inverse(together: NDArray[np.int32], penalty: Float64) -> Float64:
    """(`together` + diag(`penalty`))⁻¹, [m, m], by Cholesky in one matrix of float64.

    Raises:
        ValueError: the matrix is not positive definite.
    """
    gram = together.astype(np.float64, order="F")
    gram[np.diag_indices_from(gram)] += penalty
    factor, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)
    inverse, is_singular = (factor, 1) if failed else lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed or is_singular:
        raise ValueError("EASE: the counts of pairs are not positive definite; raise the lowest of ease_lambdas")
    whole: Float64 = inverse
    for rows in blocks(len(whole)):  # LAPACK fills one triangle
        whole[rows, rows.stop :] = whole[rows.stop :, rows].T
        block = whole[rows, rows]
        block[np.triu_indices(len(block), 1)] = block.T[np.triu_indices(len(block), 1)]
    return whole


@dataclass(frozen=True, eq=False)
class ItemKnn(Fitted):
    """Tags that co-occur with the visible ones: s_t = Σ_{v visible} sim(v, t), sim [m, m] sparse, diagonal 0."""

    pairs: Cooccurrence
    similarities: CaptionMatrix
    name: str = "item_knn"

    def fitted_scores(self, visible: CaptionMatrix) -> Float32:
        """x sim, [n, m]."""
        scores: Float32 = (self.pairs.select(visible) @ self.similarities).toarray()
        return scores


def fit_item_knn(pairs: Cooccurrence, num_neighbours: int, exponent: float) -> ItemKnn:
    """Fits sim(v, t) = n(v and t) / (n(v)^a · n(t)^(1 - a)), a = `exponent`, for the `num_neighbours` nearest v of a t.

    a = ½ is the cosine of two tags over posts, a = 1 is P(t | v) (Aiolli 2013, "Efficient Top-N Recommendation for Very
    Large Scale Binary Rated Datasets", section 3). Ties go to the lower tag index.
    """
    return NearestTags(pairs, num_neighbours, exponent).item_knn(num_neighbours)


class NearestTags:
    """The most similar tags of each tag, which item-kNN with at most as many neighbours shares."""

    def __init__(self, pairs: Cooccurrence, num_neighbours: int, exponent: float) -> None:
        self.pairs = pairs
        counts = np.maximum(pairs.counts[pairs.fitted], 1)
        heavier, lighter = counts**exponent, counts ** (1 - exponent)
        num_tags = len(counts)
        self._nearest = np.empty((min(num_neighbours, num_tags), num_tags), np.int64)
        self._similarities = np.empty(self._nearest.shape)
        for tags in blocks(num_tags):
            similarities = pairs.together[:, tags] / np.outer(heavier, lighter[tags])
            similarities[np.arange(num_tags)[tags], np.arange(similarities.shape[1])] = 0
            nearest = np.argsort(-similarities, axis=0, kind="stable")[:num_neighbours]
            self._nearest[:, tags] = nearest
            self._similarities[:, tags] = np.take_along_axis(similarities, nearest, axis=0)

    def item_knn(self, num_neighbours: int) -> ItemKnn:
        """The scorer with the `num_neighbours` nearest tags of each."""
        nearest, kept = self._nearest[:num_neighbours], self._similarities[:num_neighbours].astype(np.float32)
        tags = np.broadcast_to(np.arange(nearest.shape[1]), nearest.shape)
        shape = (nearest.shape[1], nearest.shape[1])
        similarities = sparse.csr_matrix((kept.ravel(), (nearest.ravel(), tags.ravel())), shape=shape)
        similarities.eliminate_zeros()
        return ItemKnn(self.pairs, similarities)


def blocks(size: int) -> Iterator[slice]:
    """Slices of at most 512 rows of a matrix of `size` rows: what is computed from them stays small."""
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))
