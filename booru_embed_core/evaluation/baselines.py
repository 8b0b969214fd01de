"""The opponents: popularity, naive Bayes, PPMI-SVD and two forms of EASE, all read from counts of tags and of pairs.

Each is a `Scorer`: visible tags in, a number for every tag out. They are fitted on training posts alone; which
hyper-parameters are taken is `tuning`'s business.

Pairs of tags are counted densely, so all but popularity know only the `max_tags` most used tags; the others are ranked
below those, by popularity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from booru_embed_core.evaluation.tasks import Captions

Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]
PpmiRule: TypeAlias = Literal["cosine", "product"]

_CHUNK_POSTS: Final = 65_536
_NAIVE_BAYES_PRIOR_POSTS: Final = 10.0
"""Naive Bayes: imagined posts in which a tag is independent of the others; on the sample 1, 10, 100 differ by .002."""
_CONTEXT_EXPONENT: Final = 0.75
_SVD_SEED: Final = 7


class Scorer(Protocol):
    """Something that completes captions."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def scores(self, visible: Captions) -> Float32:
        """A number for each tag, [n, num_tags], higher for likelier; what it says of a visible tag is not looked at."""
        ...


@runtime_checkable
class EmbeddingScorer(Scorer, Protocol):
    """A scorer that embeds captions as well."""

    def embed(self, visible: Captions) -> Float32:
        """A vector for each caption, [n, dim], to be compared by cosine."""
        ...


@dataclass(frozen=True, eq=False)
class Cooccurrence:
    """Counts of tags and of pairs of tags in training captions.

    Attributes:
        counts: posts that have the tag, float64[num_tags].
        num_posts: posts counted.
        fitted: indices of the tags that pairs are counted of, int64[m], ascending.
        together: posts that have both tags, float64[m, m]; the diagonal is ``counts[fitted]``.
    """

    counts: Float64
    num_posts: int
    fitted: NDArray[np.int64]
    together: Float64

    @property
    def shares(self) -> Float64:
        """P(tag) with one imagined post that has it and one that has not, float64[num_tags], each in (0, 1)."""
        return (self.counts + 1) / (self.num_posts + 2)

    def select(self, visible: Captions) -> Captions:
        """`visible` with the fitted tags alone, [n, m]."""
        selected: Captions = visible if len(self.fitted) == len(self.counts) else visible[:, self.fitted]
        return selected

    def spread(self, scores: Float32) -> Float32:
        """Scores [n, num_tags] made of `scores` [n, m] of the fitted tags: the others rank below, by popularity."""
        if len(self.fitted) == len(self.counts):
            return scores
        lowest = scores.min(axis=1, keepdims=True)
        scale = np.maximum(np.abs(lowest), 1)  # or float32 would round the differences in popularity away
        every: Float32 = (lowest - scale * (2 - self.shares)).astype(np.float32)
        every[:, self.fitted] = scores
        return every


def count_cooccurrence(train: Captions, max_tags: int) -> Cooccurrence:
    """Counts of the captions `train` [num_posts, num_tags]; pairs among the `max_tags` most used tags.

    Ties in use are broken by tag index. Memory: 8 · m² bytes, and about as much while counting.
    """
    counts = train.getnnz(axis=0).astype(np.float64)
    order = np.lexsort((np.arange(len(counts)), -counts))
    fitted = np.sort(order[:max_tags]).astype(np.int64)
    together = np.zeros((len(fitted), len(fitted)))
    for start in range(0, train.shape[0], _CHUNK_POSTS):
        posts = train[start : start + _CHUNK_POSTS][:, fitted]
        pairs = sparse.coo_matrix(posts.T @ posts)
        together[pairs.row, pairs.col] += pairs.data
    return Cooccurrence(counts=counts, num_posts=train.shape[0], fitted=fitted, together=together)


@dataclass(frozen=True, eq=False)
class Popularity:
    """Every post gets the most used tags: s_t = P(t)."""

    pairs: Cooccurrence
    name: str = "popularity"

    def scores(self, visible: Captions) -> Float32:
        """P(t), the same in each row, [n, num_tags]."""
        return np.broadcast_to(self.pairs.shares.astype(np.float32), visible.shape)


@dataclass(frozen=True, eq=False)
class NaiveBayes:
    """Damped naive Bayes on the tags that are present: s_t = log P(t) + d · Σ_{v visible} log [P(v | t) / P(v)].

    P(v | t) = (n(v and t) + α P(v)) / (n(t) + α), α = 10: Laplace's smoothing towards independence.
    d = 1 would be right if tags were independent given t; they are not, so d is tuned.
    """

    pairs: Cooccurrence
    log_prior: Float32
    log_ratio: Float32
    damping: float
    name: str = "naive_bayes"

    def scores(self, visible: Captions) -> Float32:
        """Damped log posteriors up to a constant of the row, [n, num_tags]."""
        evidence = self.pairs.select(visible) @ self.log_ratio
        return self.pairs.spread(self.log_prior + np.float32(self.damping) * evidence)


def fit_naive_bayes(pairs: Cooccurrence, damping: float) -> NaiveBayes:
    """Naive Bayes with d = `damping`."""
    shares, alpha = pairs.shares[pairs.fitted], _NAIVE_BAYES_PRIOR_POSTS
    lifted = pairs.together / shares[:, None] + alpha
    log_ratio = np.log(lifted / (pairs.counts[pairs.fitted] + alpha))
    return NaiveBayes(pairs, np.log(shares).astype(np.float32), log_ratio.astype(np.float32), damping)


@dataclass(frozen=True, eq=False)
class Ease:
    """A linear model of each tag from all others: s = x B with diag(B) = 0, [m, m]."""

    pairs: Cooccurrence
    weights: Float32
    name: str = "ease"

    def scores(self, visible: Captions) -> Float32:
        """x B, [n, num_tags]."""
        return self.pairs.spread(self.pairs.select(visible) @ self.weights)


def fit_ease(pairs: Cooccurrence, ridge: float, dropout: float = 0.0) -> Ease:
    """The closed form B = I - P diag(1 / P_tt), P = (XᵀX + Λ)⁻¹, in float64.

    Without dropout, Λ = `ridge` · I: EASE, the ridge regression of each tag on the others (Steck 2019, "Embarrassingly
    Shallow Autoencoders", section 3). With dropout p, Λ = `ridge` · I + p / (1 - p) · diag(XᵀX): EDLAE, what that
    regression tends to when each visible tag is hidden with probability p (Steck 2020, "Autoencoders that don't
    overfit towards the Identity", section 3), as it is when tags are held out.

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
class PpmiSvd:
    """Tag vectors from the SVD of positive pointwise mutual information; a caption is the mean of its tags' vectors.

    Attributes:
        vectors: of the fitted tags as part of a caption, [m, dim].
        targets: of the fitted tags as answers, [m, dim].
        centre: the mean vector over all uses of tags, [dim].
    """

    pairs: Cooccurrence
    vectors: Float32
    targets: Float32
    centre: Float32
    name: str = "ppmi_svd"

    def scores(self, visible: Captions) -> Float32:
        """Σ_{v visible} vectors_v · targets_t, [n, num_tags]."""
        return self.pairs.spread((self.pairs.select(visible) @ self.vectors) @ self.targets.T)

    def embed(self, visible: Captions) -> Float32:
        """The mean of the tags' vectors less `centre`, [n, dim]; zero for a caption without fitted tags."""
        selected = self.pairs.select(visible)
        num_tags = selected.getnnz(axis=1)[:, None]
        means = (selected @ self.vectors) / np.maximum(num_tags, 1) - self.centre
        return np.where(num_tags > 0, means, 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class PpmiFactors:
    """PPMI ≈ U S Vᵀ, from which scorers of any smaller dimension are cut; U, V float64[m, dim], S float64[dim]."""

    pairs: Cooccurrence
    left: Float64
    singular: Float64
    right: Float64

    def scorer(self, dim: int, rule: PpmiRule) -> PpmiSvd:
        """The scorer of the first `dim` factors.

        ``"cosine"``: a tag's vector is V_t, and scores are cosines, up to the caption's length, which moves no rank.
        ``"product"``: caption vectors are U_v S, answers V_t, so that scores are sums of the smoothed PPMI.
        """
        right = self.right[:, :dim]
        if rule == "cosine":
            lengths = np.linalg.norm(right, axis=1, keepdims=True)
            vectors, targets = right, right / np.where(lengths > 0, lengths, 1)
        else:
            vectors, targets = self.left[:, :dim] * self.singular[:dim], right
        uses = self.pairs.counts[self.pairs.fitted]
        centre = uses @ vectors / max(1.0, float(uses.sum()))
        return PpmiSvd(self.pairs, vectors.astype(np.float32), targets.astype(np.float32), centre.astype(np.float32))


def factor_ppmi(pairs: Cooccurrence, dim: int) -> PpmiFactors:
    """The first `dim` factors of PPMI_ab = max(0, log [P(a, b) / (P(a) P'(b))]), P' ∝ P^.75, a ≠ b.

    P is over pairs of different tags (Levy, Goldberg, Dagan 2015, "Improving Distributional Similarity with Lessons
    Learned from Word Embeddings", sections 2.1 and 3.2). The randomized SVD has a fixed seed and fixed signs: the same
    counts give the same factors.
    """
    together = pairs.together.copy()
    np.fill_diagonal(together, 0)
    uses = together.sum(axis=1)
    contexts = uses**_CONTEXT_EXPONENT
    expected = np.outer(uses, contexts / max(1.0, float(contexts.sum())))
    seen = together > 0
    ppmi = np.zeros_like(together)
    ppmi[seen] = np.maximum(0, np.log(together[seen] / expected[seen]))
    left, singular, right = randomized_svd(ppmi, n_components=min(dim, len(ppmi)), n_iter=7, random_state=_SVD_SEED)
    return PpmiFactors(pairs, left, singular, right.T)
