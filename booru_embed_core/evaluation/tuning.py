"""Fits baselines on training captions and chooses each task's hyper-parameters on its validation posts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from booru_embed_core.evaluation.baselines import (
    ITEM_KNN_EXPONENTS,
    ITEM_KNN_NEIGHBOURS,
    NAIVE_BAYES_DAMPINGS,
    EmbeddingScorer,
    Popularity,
    Scorer,
    fit_ease,
    fit_item_knn,
    fit_naive_bayes,
)
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
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, Cooccurrence, captions_from_packed, count_cooccurrence

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile

Params: TypeAlias = "dict[str, float | str]"
Candidates: TypeAlias = "Iterator[tuple[Params, Scorer]]"


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
class _TunedBaseline:
    """A candidate and its metric on validation."""

    value: float
    params: Params
    scorer: Scorer


def fit_baselines(
    train: CaptionMatrix,
    validation: Mapping[Hide, HeldOut],
    settings: EvaluationSettings,
    report: Callable[[str], None] = lambda _: None,
) -> Baselines:
    """Fits ``settings.baselines`` on `train` and tunes them by recall@10 on each task of `validation`.

    Args:
        train: [num_posts, num_tags].
        validation: task → held-out tags of other posts; ``"half"`` also tunes split-half retrieval.
        settings: names, grids, and the number of tags to fit.
        report: called with a line after each baseline.

    Raises:
        ValueError: `train` has no tag, or a task of `validation` no post.
    """
    if not train.nnz:
        raise ValueError("the training split has no tag of the vocabulary; give more posts or a smaller test_share")
    if not all(held_out.num_posts for held_out in validation.values()):
        raise ValueError("no validation post has two tags of the vocabulary; give more posts or raise validation_share")
    pairs = count_cooccurrence(train, settings.max_fitted_tags)
    best: dict[str, dict[str, _TunedBaseline]] = {}
    left_out: list[str] = []
    for name in settings.baselines:
        if name == "item2vec" and not is_installed():
            left_out.append(GENSIM_IS_MISSING)
            report(GENSIM_IS_MISSING)
            continue
        best[name] = _search(_candidates(name, pairs, train, settings), validation)
        figures = (f"{task} {fitted.value:.3f} {fitted.params or ''}".strip() for task, fitted in best[name].items())
        report(f"fitted {name}; on validation: {', '.join(figures)}")
    embedders = [fitted[SPLIT_HALF_RETRIEVAL].scorer for fitted in best.values() if SPLIT_HALF_RETRIEVAL in fitted]
    return Baselines(
        scorers={hide: [fitted[hide].scorer for fitted in best.values()] for hide in validation},
        embedders=[scorer for scorer in embedders if isinstance(scorer, EmbeddingScorer)],
        chosen={
            task: {name: fitted[task].params for name, fitted in best.items() if task in fitted}
            for task in (*validation, SPLIT_HALF_RETRIEVAL)
        },
        num_fitted_tags=len(pairs.fitted),
        left_out=tuple(left_out),
    )


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
    train = captions_from_packed(packed, vocab, rows_of_split(packed, "train"))
    rows = sample_rows(packed, "validation", settings)
    captions, post_ids = captions_from_packed(packed, vocab, rows), packed.post_id[rows]
    validation = {hide: hold_out(captions, post_ids, hide, settings.seed, vocab.is_unknown) for hide in HIDES}
    return fit_baselines(train, validation, settings, report)


def _search(candidates: Candidates, validation: Mapping[Hide, HeldOut]) -> dict[str, _TunedBaseline]:
    """The best candidate of each task, and of split-half retrieval if candidates embed; only these stay in memory.

    A tie keeps the earlier candidate.
    """
    best: dict[str, _TunedBaseline] = {}
    for params, scorer in candidates:
        values = {str(hide): evaluate_scorer(scorer, asked)[HEADLINE] for hide, asked in validation.items()}
        if isinstance(scorer, EmbeddingScorer) and "half" in validation:
            half = validation["half"]
            values[SPLIT_HALF_RETRIEVAL] = split_half_recall(scorer.embed(half.visible), scorer.embed(half.hidden))
        for task, value in values.items():
            if task not in best or value > best[task].value:
                best[task] = _TunedBaseline(value, params, scorer)
    return best


def _candidates(name: str, pairs: Cooccurrence, train: CaptionMatrix, settings: EvaluationSettings) -> Candidates:
    """All points of the grid of baseline `name`, fitted one at a time."""
    if name == "popularity":
        yield {}, Popularity(pairs)
    elif name == "naive_bayes":
        for damping in NAIVE_BAYES_DAMPINGS:
            yield {"damping": damping}, fit_naive_bayes(pairs, damping)
    elif name == "item_knn":
        for neighbours, exponent in itertools.product(ITEM_KNN_NEIGHBOURS, ITEM_KNN_EXPONENTS):
            yield {"neighbours": neighbours, "exponent": exponent}, fit_item_knn(pairs, neighbours, exponent)
    elif name == "ease":
        for ridge in settings.ease_lambdas:
            yield {"lambda": ridge}, fit_ease(pairs, ridge)
    elif name == "edlae":
        ridge = min(settings.ease_lambdas)
        for dropout in settings.edlae_dropouts:
            yield {"lambda": ridge, "dropout": dropout}, fit_ease(pairs, ridge, dropout)
    else:
        yield from _embedding_candidates(name, pairs, train)


def _embedding_candidates(name: str, pairs: Cooccurrence, train: CaptionMatrix) -> Candidates:
    """`_candidates` of the baselines with a vector for each tag."""
    if name == "ppmi_svd":
        factors = factor_ppmi(pairs, PPMI_DIM)
        size = len(factors.singular)
        for dim in sorted({max(1, size // 4), max(1, size // 2), size}):
            for rule in RULES:
                yield {"dim": dim, "rule": rule}, factors.scorer(dim, rule)
    elif name == "lsa":
        dims = sorted({min(dim, len(pairs.fitted)) for dim in LSA_DIMS})
        for weighting in WEIGHTINGS:
            lsa = factor_lsa(pairs, dims[-1], weighting)
            for dim in dims:
                yield {"dim": dim, "weighting": weighting}, lsa.scorer(dim)
    elif name == "tag_table":
        table = TagTable(pairs, train, TAG_TABLE_DIM, max(TAG_TABLE_EPOCHS))
        for epoch in table.epochs():
            if epoch in TAG_TABLE_EPOCHS:
                for rule in RULES:
                    yield {"epochs": epoch, "rule": rule}, table.scorer(rule)
    elif name == "item2vec":
        vectors = train_item2vec(pairs, train, ITEM2VEC_DIM, ITEM2VEC_EPOCHS)
        yield {"rule": "cosine"}, vectors.cosine_scorer()
        for damping in NAIVE_BAYES_DAMPINGS:
            yield {"rule": "prior", "damping": damping}, vectors.scorer(damping)
    else:
        raise AssertionError(name)
