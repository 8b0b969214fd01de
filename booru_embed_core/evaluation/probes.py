"""Linear probes: how well a linear model predicts a post's rating and score from its vector.

A vector comes from all tags of a post; rating and score are withheld. The same probes are fitted to our embeddings and
to PPMI-SVD's: fitted on training posts, penalty chosen on validation posts, measured on test posts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score, r2_score
from sklearn.preprocessing import StandardScaler

from booru_embed_core.evaluation.baselines import EmbeddingScorer, Scorer
from booru_embed_core.evaluation.tag_vectors import PPMI_DIM, RULES, factor_ppmi
from booru_embed_core.evaluation.tasks import sample_rows
from booru_embed_core.schema import SPLITS
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, Float64, captions_from_packed, count_cooccurrence
from booru_embed_core.tokens.score_bins import score_bin_edges, score_bins
from booru_embed_core.vectors import unit_vectors

if TYPE_CHECKING:
    from booru_embed_core.evaluation.metrics import Metrics
    from booru_embed_core.evaluation.tuning import Params
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile

Labels: TypeAlias = NDArray[np.int64]
Target: TypeAlias = Literal["rating", "score"]

TARGETS: Final[tuple[Target, ...]] = ("rating", "score")
CONSTANT_NAME: Final = "constant"
_HEADLINES: Final[Mapping[Target, str]] = {"rating": "accuracy", "score": "r2"}
"""The metrics that hyper-parameters are chosen by."""
_PENALTIES: Final = (1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0)
_DIGITS: Final = 6
"""Decimal places of a figure: the last bits of a sum depend on the number of threads, the report must not."""


@dataclass(frozen=True)
class ProbeResult:
    """How well one target is predicted.

    Attributes:
        num_train: posts fitted on.
        num_test: posts measured on.
        models: name → metric → figure; our embeddings, ``"ppmi_svd"``, and ``"constant"``, which ignores the tags.
        chosen: name → the hyper-parameters that did best on validation.
    """

    num_train: int
    num_test: int
    models: Mapping[str, Metrics]
    chosen: Mapping[str, Params]


@dataclass(frozen=True, eq=False)
class _Posts:
    """Posts of one split: captions [n, num_tags], and int64[n] labels of each target."""

    captions: CaptionMatrix
    labels: Mapping[Target, Labels]


@dataclass(frozen=True, eq=False)
class _FittedProbe:
    """A fitted probe: its headline metric on validation, and its predictions for the test posts, float64[n]."""

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
    """The probes of PPMI-SVD with `PPMI_DIM` numbers, and of those of `scorers` that embed.

    ``rating`` is the index into ``schema.RATINGS``, by logistic regression: accuracy, and F1 averaged over ratings.
    ``score`` is a score's decile, 0 to 9, among the training posts of its rating, by ridge regression: R², Spearman.
    A target that is constant within a split is left out.

    Args:
        scorers: the models.
        packed: the packed file, made with `vocab`; at most ``settings.max_posts`` posts of each split are read.
        vocab: its vocabulary.
        settings: numbers of posts and tags, and the seed that draws the posts.
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
        train, test = posts["train"].labels[target], posts["test"].labels[target]
        models = {name: measure(target, fitted.predicted, test) for name, fitted in of_target.items()}
        constant = np.bincount(train).argmax() if target == "rating" else train.mean()
        models[CONSTANT_NAME] = measure(target, np.full(len(test), constant, np.float64), test)
        chosen = {name: fitted.params for name, fitted in of_target.items()}
        results[target] = ProbeResult(len(train), len(test), models, chosen)
        shown = ", ".join(f"{name} {figures[_HEADLINES[target]]:.3f}" for name, figures in models.items())
        report(f"probed {target} ({_HEADLINES[target]}): {shown}")
    return results


def measure(target: Target, predicted: Float64, labels: Labels) -> Metrics:
    """The metrics of `predicted` against `labels`, [n] both, to 6 decimal places.

    Of a rating: accuracy, and the mean of F1 over the ratings that `labels` has. Of a score: R², which is below 0 if
    the mean of `labels` would have done better, and Spearman's rank correlation, 0 for a constant prediction.
    """
    if target == "rating":
        figures = {
            "accuracy": accuracy_score(labels, predicted),
            "macro_f1": f1_score(labels, predicted, labels=np.unique(labels), average="macro"),
        }
    else:
        figures = {
            "r2": r2_score(labels, predicted),
            "spearman": spearmanr(predicted, labels).statistic if np.ptp(predicted) else 0.0,
        }
    return {metric: round(float(value), _DIGITS) for metric, value in figures.items()}


def _read(packed: PackedFile, vocab: Vocab, settings: EvaluationSettings) -> dict[str, _Posts]:
    train = rows_of_split(packed, "train")
    edges = np.array(score_bin_edges(packed.rating[train], packed.score[train]))
    posts = {}
    for split in SPLITS:
        rows = sample_rows(packed, split, settings)
        ratings, scores = packed.rating[rows].astype(np.int64), packed.score[rows].astype(np.int64)
        bins = score_bins(scores, edges[ratings])
        posts[split] = _Posts(captions_from_packed(packed, vocab, rows), {"rating": ratings, "score": bins})
    return posts


def _embedders(
    scorers: Sequence[Scorer], train: CaptionMatrix, settings: EvaluationSettings
) -> Iterator[tuple[EmbeddingScorer, Params]]:
    """Each model that embeds, then both forms of PPMI-SVD, of which the better is taken."""
    for scorer in scorers:
        if isinstance(scorer, EmbeddingScorer):
            yield scorer, {}
    factors = factor_ppmi(count_cooccurrence(train, settings.max_fitted_tags), PPMI_DIM)
    dim = len(factors.singular)
    for rule in RULES:
        yield factors.scorer(dim, rule), {"dim": dim, "rule": rule}


def _standardised(captions: Mapping[str, CaptionMatrix], scorer: EmbeddingScorer) -> dict[str, Float64]:
    """Unit vectors of each split, float64[n, dim], scaled to mean 0 and variance 1 in train, number by number."""
    units = {split: unit_vectors(scorer.embed(of_split).astype(np.float64)) for split, of_split in captions.items()}
    scaler = StandardScaler().fit(units["train"])
    return {split: scaler.transform(rows) for split, rows in units.items()}


def _probe(
    target: Target, features: Mapping[str, Float64], labels: Mapping[str, Labels], params: Params
) -> _FittedProbe:
    """The probe whose penalty does best on validation; a tie keeps the smaller penalty."""
    best: _FittedProbe | None = None
    for penalty in _PENALTIES:
        probe = _linear_model(target, penalty).fit(features["train"], labels["train"])
        value = measure(target, probe.predict(features["validation"]), labels["validation"])[_HEADLINES[target]]
        if best is None or value > best.value:
            best = _FittedProbe(value, {**params, "penalty": penalty}, probe.predict(features["test"]))
    assert best is not None
    return best


def _linear_model(target: Target, penalty: float) -> LogisticRegression | Ridge:
    """Multinomial logistic regression, Σ cross-entropy + `penalty` / 2 · |W|², or ridge, Σ error² + `penalty` · |w|².

    The intercept is not penalised.
    """
    if target == "rating":
        return LogisticRegression(C=1 / penalty, max_iter=2000)
    return Ridge(alpha=penalty, solver="cholesky")
