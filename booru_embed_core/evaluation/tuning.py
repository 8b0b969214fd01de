"""Fits baselines on training captions and chooses each task's hyper-parameters on its validation posts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from booru_embed_core.evaluation.baselines import (
    ITEM_KNN_EXPONENTS,
    ITEM_KNN_NEIGHBOURS,
    NAIVE_BAYES_DAMPINGS,
    EmbeddingScorer,
    NearestTags,
    Popularity,
    Scorer,
    fit_ease,
    fit_naive_bayes_each,
)
from booru_embed_core.evaluation.budget import baseline_seconds
from booru_embed_core.evaluation.item2vec import (
    GENSIM_IS_MISSING,
    ITEM2VEC_DIM,
    ITEM2VEC_EPOCHS,
    is_installed,
    train_item2vec,
)
from booru_embed_core.evaluation.metrics import HEADLINE, SPLIT_HALF_RETRIEVAL, evaluate_scorer, split_half_recall
from booru_embed_core.evaluation.tag_table import TAG_TABLE_DIM, TAG_TABLE_EPOCHS, TagTable
from booru_embed_core.evaluation.tag_vectors import LSA_DIMS, PPMI_DIM, RULES, WEIGHTINGS, factor_lsa, factor_ppmi
from booru_embed_core.evaluation.tasks import HIDES, HeldOut, Hide, hold_out, sample_rows
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import (
    Captions,
    Cooccurrence,
    PackedCaptions,
    count_cooccurrence,
)

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile

Params: TypeAlias = "dict[str, float | str]"
Candidates: TypeAlias = "Iterator[tuple[int, Params, Callable[[], Scorer]]]"
"""Place in the grid, hyper-parameters, and a function that fits with them."""


@dataclass(frozen=True, eq=False)
class Baselines:
    """Fitted baselines.

    Attributes:
        scorers: task → scorers in the order of the settings, each with its best hyper-parameters.
        embedders: those that embed, with the hyper-parameters that do best at split-half retrieval.
        chosen: task or `SPLIT_HALF_RETRIEVAL` → baseline → its hyper-parameters.
        num_fitted_tags: tags that all baselines but popularity know; the rest ranks below these.
        left_out: a sentence for each baseline of the settings that could not be fitted.
    """

    scorers: Mapping[Hide, Sequence[Scorer]]
    embedders: Sequence[EmbeddingScorer]
    chosen: Mapping[str, Mapping[str, Params]]
    num_fitted_tags: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Candidate:
    """A baseline's metric on validation, its place in the grid, its hyper-parameters, and a function that fits it.

    Scorers of all pairs of tags are fitted again when they are needed: at 8,192 tags each takes 268 MB.
    """

    value: float
    index: int
    params: Params
    fit: Callable[[], Scorer]


@dataclass(frozen=True, eq=False)
class TunedBaseline:
    """The best candidate for each task, and for `SPLIT_HALF_RETRIEVAL` if it embeds; none of one that is left out.

    `left_out` is a sentence that says why, and empty otherwise.
    """

    name: str
    best: Mapping[str, Candidate]
    left_out: str = ""

    @property
    def params(self) -> dict[str, Params]:
        """The hyper-parameters of each candidate."""
        return {task: candidate.params for task, candidate in self.best.items()}


def tune_baselines(
    train: Captions,
    pairs: Cooccurrence,
    validation: Mapping[Hide, HeldOut],
    settings: EvaluationSettings,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[TunedBaseline]:
    """Fits ``settings.baselines`` on `train`, one after another, and tunes them by recall@10 on each task.

    What one was tuned with is freed before the next: at 8,192 tags a scorer takes 268 MB.

    Args:
        train: [num_posts, num_tags].
        pairs: its counts.
        validation: task → held-out tags of other posts; ``"half"`` also tunes split-half retrieval.
        settings: names and grids.
        report: called with a line after each baseline.

    Raises:
        ValueError: `train` has no tag, or a task of `validation` no post.
    """
    check_can_tune(pairs, validation)
    for name in settings.baselines:
        left_out = why_left_out(name, pairs, validation, settings)
        if left_out:
            report(left_out)
            yield TunedBaseline(name, {}, left_out)
            continue
        best = best_of(candidates(name, pairs, train, settings), validation)
        report(fitted_line(name, {task: (found.value, found.params) for task, found in best.items()}))
        yield TunedBaseline(name, best)
        del best


def check_can_tune(pairs: Cooccurrence, validation: Mapping[Hide, HeldOut]) -> None:
    """Checks that there is something to fit and to tune on.

    Raises:
        ValueError: the training split has no tag, or a task of `validation` no post.
    """
    if not pairs.counts.any():
        raise ValueError("the training split has no tag of the vocabulary; give more posts or a smaller test_share")
    if not all(held_out.num_posts for held_out in validation.values()):
        raise ValueError("no validation post has two tags of the vocabulary; give more posts or raise validation_share")


def fitted_line(name: str, best: Mapping[str, tuple[float, Params]]) -> str:
    """What is told of the baseline `name`: the metric and the hyper-parameters of the best candidate of each task."""
    figures = (f"{task} {value:.3f} {params or ''}".strip() for task, (value, params) in best.items())
    return f"fitted {name}; on validation: {', '.join(figures)}"


def why_left_out(
    name: str, pairs: Cooccurrence, validation: Mapping[Hide, HeldOut], settings: EvaluationSettings
) -> str:
    """Why the baseline `name` is not fitted, and how to have it; empty if it is."""
    num_validation = max(held_out.num_posts for held_out in validation.values())
    if name == "item2vec" and not is_installed():
        return GENSIM_IS_MISSING
    seconds = baseline_seconds(name, pairs, num_validation, settings)
    if seconds <= settings.max_baseline_seconds:
        return ""
    return (
        f"{name} is left out: it would take about {seconds:,.0f} CPU seconds, more than [evaluation] "
        f"max_baseline_seconds = {settings.max_baseline_seconds:,}; raise that to have it"
    )


def fit_baselines(
    train: Captions,
    validation: Mapping[Hide, HeldOut],
    settings: EvaluationSettings,
    report: Callable[[str], None] = lambda _: None,
) -> Baselines:
    """All of `tune_baselines`, in memory.

    Raises:
        ValueError: as `tune_baselines`.
    """
    pairs = count_cooccurrence(train, settings.max_fitted_tags)
    best = list(tune_baselines(train, pairs, validation, settings, report))
    embedders = [one.best[SPLIT_HALF_RETRIEVAL].fit() for one in best if SPLIT_HALF_RETRIEVAL in one.best]
    return Baselines(
        scorers={hide: [one.best[hide].fit() for one in best if hide in one.best] for hide in validation},
        embedders=[scorer for scorer in embedders if isinstance(scorer, EmbeddingScorer)],
        chosen=chosen_params({one.name: one.params for one in best}),
        num_fitted_tags=len(pairs.fitted),
        left_out=tuple(one.left_out for one in best if one.left_out),
    )


def chosen_params(of_baselines: Mapping[str, Mapping[str, Params]]) -> dict[str, dict[str, Params]]:
    """Task or `SPLIT_HALF_RETRIEVAL` → baseline → its hyper-parameters, from baseline → task → these."""
    tasks = (*HIDES, SPLIT_HALF_RETRIEVAL)
    return {task: {name: params[task] for name, params in of_baselines.items() if task in params} for task in tasks}


def baselines_from_packed(
    packed: PackedFile,
    vocab: Vocab,
    settings: EvaluationSettings,
    report: Callable[[str], None] = lambda _: None,
) -> Baselines:
    """Fits baselines on the training posts of `packed` and tunes them on at most ``max_posts`` validation posts.

    Raises:
        ValueError: as `fit_baselines`.
        PackedFileError: `packed` was made with another vocabulary.
    """
    train = PackedCaptions(packed, vocab, rows_of_split(packed, "train"))
    return fit_baselines(train, validation_tasks(packed, vocab, settings), settings, report)


def validation_tasks(packed: PackedFile, vocab: Vocab, settings: EvaluationSettings) -> dict[Hide, HeldOut]:
    """Task → at most ``max_posts`` validation posts of `packed` with hidden tags."""
    rows = sample_rows(packed, "validation", settings)
    captions, post_ids = PackedCaptions(packed, vocab, rows)[:], packed.post_id[rows]
    return {hide: hold_out(captions, post_ids, hide, settings.seed, vocab.is_unknown) for hide in HIDES}


def best_of(tried: Candidates, validation: Mapping[Hide, HeldOut]) -> dict[str, Candidate]:
    """The best candidate of each task, and of split-half retrieval if candidates embed.

    A tie keeps the earlier candidate.
    """
    best: dict[str, Candidate] = {}
    for index, params, fit in tried:
        scorer = fit()
        values = {str(hide): evaluate_scorer(scorer, asked)[HEADLINE] for hide, asked in validation.items()}
        if isinstance(scorer, EmbeddingScorer) and "half" in validation:
            half = validation["half"]
            values[SPLIT_HALF_RETRIEVAL] = split_half_recall(scorer.embed(half.visible), scorer.embed(half.hidden))
        for task, value in values.items():
            if task not in best or value > best[task].value:
                best[task] = Candidate(value, index, params, fit)
        del scorer, fit  # or it would stay in memory while the next one is fitted
    return best


def num_groups(name: str, settings: EvaluationSettings) -> int:
    """How many parts the grid of baseline `name` has; the candidates of one share the work of fitting."""
    sizes = {
        "item_knn": len(ITEM_KNN_EXPONENTS),
        "ease": len(settings.ease_lambdas),
        "edlae": len(settings.edlae_dropouts),
    }
    return sizes.get(name, 1)


def group_of(name: str, index: int) -> int:
    """The part of the grid of baseline `name` that the candidate `index` belongs to, where it has several."""
    return index % len(ITEM_KNN_EXPONENTS) if name == "item_knn" else index


def candidates(
    name: str, pairs: Cooccurrence, train: Captions, settings: EvaluationSettings, group: int | None = None
) -> Candidates:
    """All points of the grid of baseline `name`, or those of one of its `num_groups`, fitted one at a time."""

    def is_asked(number: int) -> bool:
        return group in (None, number)

    if name == "popularity":
        yield 0, {}, partial(Popularity, pairs)
    elif name == "naive_bayes":
        for index, fitted in enumerate(fit_naive_bayes_each(pairs, NAIVE_BAYES_DAMPINGS)):
            yield index, {"damping": fitted.damping}, partial(_as_is, fitted)
    elif name == "item_knn":
        nearest = {
            number: NearestTags(pairs, max(ITEM_KNN_NEIGHBOURS), exponent)
            for number, exponent in enumerate(ITEM_KNN_EXPONENTS)
            if is_asked(number)
        }
        for row, neighbours in enumerate(ITEM_KNN_NEIGHBOURS):
            for number, tags in nearest.items():
                params: Params = {"neighbours": neighbours, "exponent": ITEM_KNN_EXPONENTS[number]}
                yield row * len(ITEM_KNN_EXPONENTS) + number, params, partial(tags.item_knn, neighbours)
    elif name == "ease":
        for number, ridge in enumerate(settings.ease_lambdas):
            if is_asked(number):
                yield number, {"lambda": ridge}, partial(fit_ease, pairs, ridge)
    elif name == "edlae":
        ridge = min(settings.ease_lambdas)
        for number, dropout in enumerate(settings.edlae_dropouts):
            if is_asked(number):
                yield number, {"lambda": ridge, "dropout": dropout}, partial(fit_ease, pairs, ridge, dropout)
    else:
        for index, (params, fit) in enumerate(_embedding_candidates(name, pairs, train)):
            yield index, params, fit


def _as_is(scorer: Scorer) -> Scorer:
    return scorer


def _embedding_candidates(
    name: str, pairs: Cooccurrence, train: Captions
) -> Iterator[tuple[Params, Callable[[], Scorer]]]:
    """`candidates` of the baselines with a vector for each tag."""
    if name == "ppmi_svd":
        factors = factor_ppmi(pairs, PPMI_DIM)
        size = len(factors.singular)
        for dim in sorted({max(1, size // 4), max(1, size // 2), size}):
            for rule in RULES:
                yield {"dim": dim, "rule": rule}, partial(_as_is, factors.scorer(dim, rule))
    elif name == "lsa":
        dims = sorted({min(dim, len(pairs.fitted)) for dim in LSA_DIMS})
        for weighting in WEIGHTINGS:
            lsa = factor_lsa(pairs, dims[-1], weighting)
            for dim in dims:
                yield {"dim": dim, "weighting": weighting}, partial(_as_is, lsa.scorer(dim))
    elif name == "tag_table":
        table = TagTable(pairs, train[:], TAG_TABLE_DIM, max(TAG_TABLE_EPOCHS))
        for epoch in table.epochs():
            if epoch in TAG_TABLE_EPOCHS:
                for rule in RULES:
                    yield {"epochs": epoch, "rule": rule}, partial(_as_is, table.scorer(rule))
    elif name == "item2vec":
        vectors = train_item2vec(pairs, train[:], ITEM2VEC_DIM, ITEM2VEC_EPOCHS)
        yield {"rule": "cosine"}, vectors.cosine_scorer
        for damping in NAIVE_BAYES_DAMPINGS:
            yield {"rule": "prior", "damping": damping}, partial(vectors.scorer, damping)
    else:
        raise AssertionError(name)
