"""Linear probes: how well a linear model predicts a post's rating and score from its vector.

A vector comes from all tags of a post; rating and score are withheld. The same probes are fitted to our embeddings and
to PPMI-SVD's: fitted on training posts, penalty chosen on validation posts, measured on test posts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score, r2_score
from sklearn.preprocessing import StandardScaler

from booru_embed_core.evaluation.baselines import EmbeddingScorer, Scorer
from booru_embed_core.evaluation.model_parts import post_slices
from booru_embed_core.evaluation.tag_vectors import PPMI_DIM, RULES, factor_ppmi
from booru_embed_core.evaluation.tasks import sample_rows
from booru_embed_core.memory import trim_memory
from booru_embed_core.schema import SPLITS
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, Float64, PackedCaptions, count_cooccurrence
from booru_embed_core.tokens.score_bins import score_bin_edges, score_bins
from booru_embed_core.training.parts import Arrays, Parts
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
PPMI_NAME: Final = "ppmi_svd"
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

    def arrays(self, target: Target) -> Arrays:
        """This probe of `target` in a part."""
        params = np.array(json.dumps(self.params))
        return {f"{target}/value": np.array(self.value), f"{target}/params": params, f"{target}/test": self.predicted}

    @classmethod
    def of(cls, found: Arrays, target: Target) -> Self:
        """The probe of `target` that `arrays` put into a part."""
        params = json.loads(str(found[f"{target}/params"]))
        return cls(float(found[f"{target}/value"]), params, found[f"{target}/test"])


def run_probes(
    scorers: Sequence[Scorer],
    packed: PackedFile,
    vocab: Vocab,
    settings: EvaluationSettings,
    report: Callable[[str], None] = lambda _: None,
    parts: Parts | None = None,
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
        parts: compute the parts: embeddings of some posts, and the probes of a model.
    """
    parts = parts or Parts()
    posts = _read(packed, vocab, settings)
    targets = [t for t in TARGETS if all(len(np.unique(one.labels[t])) > 1 for one in posts.values())]
    if not targets:
        report("no probe: rating and score are the same for all posts")
    best = _fitted_probes(scorers, posts, targets, settings, parts) if targets else {}
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
        captions = PackedCaptions(packed, vocab, rows)[:]
        posts[split] = _Posts(captions, {"rating": ratings, "score": bins})
    return posts


def _fitted_probes(
    scorers: Sequence[Scorer],
    posts: Mapping[str, _Posts],
    targets: Sequence[Target],
    settings: EvaluationSettings,
    parts: Parts,
) -> dict[Target, dict[str, _FittedProbe]]:
    """Target → model that embeds, then PPMI-SVD → its probe."""
    embedders = [scorer for scorer in scorers if isinstance(scorer, EmbeddingScorer)]
    captions = {split: one.captions for split, one in posts.items()}
    vectors = _embedded(embedders, captions, parts)
    names = [*(scorer.name for scorer in embedders), PPMI_NAME]

    def compute(number: int) -> Arrays:
        tried = _ppmi_vectors(captions, settings) if number == len(embedders) else iter([(vectors[number], {})])
        found: dict[Target, _FittedProbe] = {}
        for embedded, params in tried:
            features = _standardised(embedded)
            for target in targets:
                fitted = _probe(target, features, {split: one.labels[target] for split, one in posts.items()}, params)
                if target not in found or fitted.value > found[target].value:
                    found[target] = fitted
        return {key: array for target, fitted in found.items() for key, array in fitted.arrays(target).items()}

    results = parts.each("probed", len(names), compute)
    return {
        target: {name: _FittedProbe.of(found, target) for name, found in zip(names, results, strict=True)}
        for target in targets
    }


def _embedded(
    embedders: Sequence[EmbeddingScorer], captions: Mapping[str, CaptionMatrix], parts: Parts
) -> list[dict[str, NDArray[np.float32]]]:
    """Of each of `embedders`, split → its embeddings, float32[n, dim]; computed some posts at a time."""
    units = [(split, rows) for split, of_split in captions.items() for rows in post_slices(of_split.shape[0], 1)]

    def compute(number: int) -> Arrays:
        split, rows = units[number]
        return {str(i): scorer.embed(captions[split][rows]) for i, scorer in enumerate(embedders)}

    found = parts.each("embedded", len(units), compute) if embedders else []
    return [
        {
            split: np.concatenate([one[str(i)] for (of, _), one in zip(units, found, strict=True) if of == split])
            for split in captions
        }
        for i in range(len(embedders))
    ]


def _ppmi_vectors(
    captions: Mapping[str, CaptionMatrix], settings: EvaluationSettings
) -> Iterator[tuple[dict[str, NDArray[np.float32]], Params]]:
    """Split → embeddings by PPMI-SVD, and its hyper-parameters: both forms, of which the better is taken."""
    trim_memory()  # what the probes before left: with 8,192 tags PPMI takes .8 GB
    factors = factor_ppmi(count_cooccurrence(captions["train"], settings.max_fitted_tags), PPMI_DIM)
    dim = len(factors.singular)
    for rule in RULES:
        scorer = factors.scorer(dim, rule)
        yield {split: scorer.embed(of_split) for split, of_split in captions.items()}, {"dim": dim, "rule": rule}


def _standardised(embedded: Mapping[str, NDArray[np.float32]]) -> dict[str, Float64]:
    """Unit vectors of each split, float64[n, dim], scaled to mean 0 and variance 1 in train, number by number."""
    units = {split: unit_vectors(rows.astype(np.float64)) for split, rows in embedded.items()}
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
