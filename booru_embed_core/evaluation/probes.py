"""Linear probes: how much of a post's rating and score its vector tells to the plainest of maps.

Vectors are made of all tags of a post, rating and score withheld. The same probe is put to our embeddings and to
PPMI-SVD's: fitted on training posts, its penalty chosen on validation posts, measured on test posts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from booru_embed_core.evaluation.baselines import EmbeddingScorer, Scorer
from booru_embed_core.evaluation.tag_vectors import factor_ppmi
from booru_embed_core.evaluation.tasks import sample_posts
from booru_embed_core.schema import SPLITS
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.batches import rows_of_split, score_bin_edges, score_bins
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, captions_from_packed, count_cooccurrence

if TYPE_CHECKING:
    from booru_embed_core.evaluation.metrics import Metrics
    from booru_embed_core.evaluation.tuning import Params
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile

Float64: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.int64]
Target: TypeAlias = Literal["rating", "score"]

TARGETS: Final[tuple[Target, ...]] = ("rating", "score")
CONSTANT_NAME: Final = "constant"
_HEADLINES: Final[Mapping[Target, str]] = {"rating": "accuracy", "score": "r2"}
"""What hyper-parameters are chosen by."""
_PENALTIES: Final = (1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0)
_DIGITS: Final = 6
"""Kept of a figure: the last bits of a sum depend on the number of threads, and the report's bytes must not."""


@dataclass(frozen=True)
class ProbeResult:
    """What is told of one target.

    Attributes:
        num_train: posts fitted on.
        num_test: posts measured on.
        models: name → metric → figure; our embeddings, ``"ppmi_svd"``, and ``"constant"``, which looks at no tag.
        chosen: name → what did best on validation.
    """

    num_train: int
    num_test: int
    models: Mapping[str, Metrics]
    chosen: Mapping[str, Params]


@dataclass(frozen=True, eq=False)
class _Posts:
    """Posts of one split: captions [n, num_tags], and of each target int64[n]."""

    captions: CaptionMatrix
    labels: Mapping[Target, Labels]


@dataclass(frozen=True, eq=False)
class _FittedProbe:
    """A probe with its value on validation, and what it says of the test posts."""

    value: float
    params: Params
    predicted: Float64


def run_probes(
    scorers: Sequence[Scorer],
    packed: PackedFile,
    vocab: Vocab,
    settings: EvaluationSettings,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, ProbeResult]:
    """The probes of those of `scorers` that embed, and of PPMI-SVD with ``settings.ppmi_dim`` numbers.

    ``rating`` is one of ``schema.RATINGS``, by logistic regression: accuracy, and the mean over ratings of F1.
    ``score`` is a score's decile, 0 to 9, among the training posts of its rating, by ridge regression: R², Spearman.
    A target that is the same for all posts of a split has nothing to tell and is left out.

    Args:
        scorers: the models.
        packed: the packed file, made with `vocab`; at most ``settings.max_posts`` of each split are read.
        vocab: its vocabulary.
        settings: how many posts and tags, and the seed that draws posts.
        report: called with a line after each target.
    """
    posts = _read(packed, vocab, settings)
    targets = [t for t in TARGETS if all(len(np.unique(one.labels[t])) > 1 for one in posts.values())]
    if not targets:
        report("no probe: rating and score are the same for all posts")
    best: dict[Target, dict[str, _FittedProbe]] = {target: {} for target in targets}
    for scorer, params in _embedders(scorers, posts["train"].captions, settings) if targets else ():
        features = _standardised({split: one.captions for split, one in posts.items()}, scorer)
        for target in targets:
            fitted = _probe(target, features, {split: one.labels[target] for split, one in posts.items()}, params)
            if scorer.name not in best[target] or fitted.value > best[target][scorer.name].value:
                best[target][scorer.name] = fitted
    results: dict[str, ProbeResult] = {}
    for target, of_target in best.items():
        train, asked = posts["train"].labels[target], posts["test"].labels[target]
        models = {name: _measure(target, fitted.predicted, asked) for name, fitted in of_target.items()}
        constant = np.bincount(train).argmax() if target == "rating" else train.mean()
        models[CONSTANT_NAME] = _measure(target, np.full(len(asked), constant, np.float64), asked)
        chosen = {name: fitted.params for name, fitted in of_target.items()}
        results[target] = ProbeResult(len(train), len(asked), models, chosen)
        shown = ", ".join(f"{name} {figures[_HEADLINES[target]]:.3f}" for name, figures in models.items())
        report(f"probed {target} ({_HEADLINES[target]}): {shown}")
    return results


def macro_f1(predicted: Labels, asked: Labels) -> float:
    """The mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that `asked` has, int64[n] both."""
    values = []
    for label in np.unique(asked):
        says, has = predicted == label, asked == label
        values.append(2 * np.count_nonzero(says & has) / (np.count_nonzero(says) + np.count_nonzero(has)))
    return float(np.mean(values))


def r_squared(predicted: Float64, asked: Labels) -> float:
    """1 - Σ (predicted - asked)² / Σ (mean of asked - asked)²: below 0 where the mean would have done better."""
    return float(1 - np.square(predicted - asked).sum() / np.square(asked - asked.mean()).sum())


def spearman(predicted: Float64, asked: Labels) -> float:
    """The correlation of the ranks, ties at their mean rank; 0 where all predictions are the same."""
    if not np.ptp(predicted):
        return 0.0
    return float(np.corrcoef(rankdata(predicted), rankdata(asked))[0, 1])


def _read(packed: PackedFile, vocab: Vocab, settings: EvaluationSettings) -> dict[str, _Posts]:
    edges = score_bin_edges(packed, rows_of_split(packed, "train"))
    posts = {}
    for split in SPLITS:
        rows = rows_of_split(packed, split)
        rows = rows[sample_posts(packed.post_id[rows], settings.max_posts, settings.seed)]
        ratings, scores = packed.rating[rows].astype(np.int64), packed.score[rows].astype(np.int64)
        bins = score_bins(edges, torch.from_numpy(ratings), torch.from_numpy(scores)).numpy()
        posts[split] = _Posts(captions_from_packed(packed, vocab, rows), {"rating": ratings, "score": bins})
    return posts


def _embedders(
    scorers: Sequence[Scorer], train: CaptionMatrix, settings: EvaluationSettings
) -> Iterator[tuple[EmbeddingScorer, Params]]:
    """Each model that embeds, then both forms of PPMI-SVD, of which the better is taken."""
    for scorer in scorers:
        if isinstance(scorer, EmbeddingScorer):
            yield scorer, {}
    factors = factor_ppmi(count_cooccurrence(train, settings.max_fitted_tags), settings.ppmi_dim)
    dim = len(factors.singular)
    yield factors.scorer(dim, "cosine"), {"dim": dim, "rule": "cosine"}
    yield factors.scorer(dim, "product"), {"dim": dim, "rule": "product"}


def _standardised(captions: Mapping[str, CaptionMatrix], scorer: EmbeddingScorer) -> dict[str, Float64]:
    """Unit vectors of each split, float64[n, dim], each number shifted and scaled to mean 0 and variance 1 in train."""
    vectors = {split: np.asarray(scorer.embed(of_split), dtype=np.float64) for split, of_split in captions.items()}
    for rows in vectors.values():
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    mean, deviation = vectors["train"].mean(axis=0), vectors["train"].std(axis=0)
    scale = np.where(deviation > 1e-9, deviation, 1)
    return {split: (rows - mean) / scale for split, rows in vectors.items()}


def _probe(
    target: Target, features: Mapping[str, Float64], labels: Mapping[str, Labels], params: Params
) -> _FittedProbe:
    """The probe whose penalty does best on validation; a tie keeps the smaller penalty."""
    best: _FittedProbe | None = None
    fit = _fit_logistic if target == "rating" else _fit_ridge
    for penalty in _PENALTIES:
        predict = fit(features["train"], labels["train"], penalty)
        value = _measure(target, predict(features["validation"]), labels["validation"])[_HEADLINES[target]]
        if best is None or value > best.value:
            best = _FittedProbe(value, {**params, "penalty": penalty}, predict(features["test"]))
    assert best is not None
    return best


def _fit_logistic(features: Float64, labels: Labels, penalty: float) -> Callable[[Float64], Float64]:
    """Multinomial logistic regression: Σ cross-entropy + penalty / 2 · |W|², the intercept free."""
    model = LogisticRegression(C=1 / penalty, max_iter=2000).fit(features, labels)
    return lambda rows: np.asarray(model.predict(rows), dtype=np.float64)


def _fit_ridge(features: Float64, labels: Labels, penalty: float) -> Callable[[Float64], Float64]:
    """w = (XᵀX + penalty · I)⁻¹ Xᵀ(y - mean of y) for standardised X, and the mean of y as the intercept."""
    mean = labels.mean()
    gram = features.T @ features + penalty * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features.T @ (labels - mean))
    return lambda rows: rows @ weights + mean


def _measure(target: Target, predicted: Float64, asked: Labels) -> Metrics:
    if target == "rating":
        labels = predicted.astype(np.int64)
        figures = {"accuracy": float((labels == asked).mean()), "macro_f1": macro_f1(labels, asked)}
    else:
        figures = {"r2": r_squared(predicted, asked), "spearman": spearman(predicted, asked)}
    return {metric: round(value, _DIGITS) for metric, value in figures.items()}
