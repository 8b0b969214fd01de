"""The evaluation of models and baselines on the test split, as data.

`markdown` renders it as text. Plots are drawn elsewhere from `Evaluation`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.evaluation.baselines import EmbeddingScorer, Scorer
from booru_embed_core.evaluation.groups import groups_of_tags
from booru_embed_core.evaluation.implied import implied_pairs, without_implied
from booru_embed_core.evaluation.metrics import (
    SPLIT_HALF_METRIC,
    SPLIT_HALF_RETRIEVAL,
    Metrics,
    PostMetrics,
    Ranked,
    evaluate_scorer,
    mean_metrics,
    metrics_of_ranks,
    rank_hidden,
    ranks_of_group,
    split_half_recall,
)
from booru_embed_core.evaluation.probes import ProbeResult, run_probes
from booru_embed_core.evaluation.suggestions import Suggestions, suggestions_of
from booru_embed_core.evaluation.tasks import HIDES, HeldOut, Hide, hold_out, sample_rows, split_halves
from booru_embed_core.evaluation.tuning import (
    Baselines,
    Params,
    TunedBaseline,
    chosen_params,
    tune_baselines,
    validation_tasks,
)
from booru_embed_core.json_files import content_checksum
from booru_embed_core.schema import RATINGS, SPLITS
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, PackedCaptions, captions_from_packed, count_cooccurrence

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile

_HEAD: Final = "booru-embed-head"
"""The scorer whose softmax completions show; its module imports torch."""
_WELL_TAGGED: Final = 20
"""95% of posts have this many tags only in an export that was selected for them: site-wide, p5 is 10 general tags."""


@dataclass(frozen=True)
class Margin:
    """A model's lead over the best baseline on the same posts.

    Attributes:
        against: the baseline with the highest mean.
        difference: mean over posts of the model's metric minus the baseline's.
        standard_error: standard error of that mean: the standard deviation of the posts' differences over √n.
    """

    against: str
    difference: float
    standard_error: float

    @property
    def is_ahead(self) -> bool | None:
        """Whether the difference is positive; None if it is within two standard errors of 0."""
        return None if abs(self.difference) <= 2 * self.standard_error else self.difference > 0


@dataclass(frozen=True)
class TaskResult:
    """Figures of one held-out task.

    Attributes:
        num_posts: posts with hidden tags.
        num_hidden: hidden tags of all these posts.
        models: name → metric → mean over posts; the models first, then the baselines.
        margins: name of a model → metric → its margin over the best baseline; empty without baselines.
    """

    num_posts: int
    num_hidden: int
    models: Mapping[str, Metrics]
    margins: Mapping[str, Mapping[str, Margin]]


@dataclass(frozen=True)
class SplitHalfResult:
    """Split-half retrieval: with one half of a post's tags, find its other half among those of all posts.

    Attributes:
        num_posts: posts compared.
        models: name → ``"recall@1"`` → mean over posts and both directions; only of models that embed.
    """

    num_posts: int
    models: Mapping[str, Metrics]


@dataclass(frozen=True)
class Evaluation:
    """All figures of the test split.

    Attributes:
        seed: decides which tags are hidden.
        split_sizes: split → posts of the packed file.
        num_tags: tags of the vocabulary.
        num_fitted_tags: tags that the baselines other than popularity know.
        tasks: ``"one"`` and ``"half"`` → figures.
        without_implied: the same without tags that a visible tag implies.
        num_implied_pairs: pairs a → b in the training split with P(b | a) > `implied_threshold`.
        implied_threshold: as in the settings.
        split_half_retrieval: figures of the scorers that embed.
        chosen: task or ``"split_half_retrieval"`` → baseline → its hyper-parameters.
        caveats: sentences about the data that limit what the figures mean.
        probes: ``"rating"`` and ``"score"`` → figures of the linear probes; constant targets are left out.
        by_group: ``"one"`` and ``"half"`` → category of the hidden tag, or `TAIL` → figures of these tags only, over
            the posts that hide any (`metrics.ranks_of_group`); groups without a post are left out.
        by_group_without_implied: the same without tags that a visible tag implies. `split_half_retrieval` and
            `visible_share` have no such figures: halves are compared whole, and the visible tags stay the same.
        visible_share: ``"one"`` and ``"half"`` → model → its probability of visible tags before they are masked, mean
            over posts. Baselines have none, because their scores are not logits.
        suggestions: what is visible → how much of the completion head's suggestions the visible tags imply, by the
            vocabulary's implications; without such, or without a completion head, none.
    """

    seed: int
    split_sizes: Mapping[str, int]
    num_tags: int
    num_fitted_tags: int
    tasks: Mapping[Hide, TaskResult]
    without_implied: Mapping[Hide, TaskResult]
    num_implied_pairs: int
    implied_threshold: float
    split_half_retrieval: SplitHalfResult
    chosen: Mapping[str, Mapping[str, Params]]
    caveats: Sequence[str]
    probes: Mapping[str, ProbeResult] = field(default_factory=dict)
    by_group: Mapping[Hide, Mapping[str, TaskResult]] = field(default_factory=dict)
    by_group_without_implied: Mapping[Hide, Mapping[str, TaskResult]] = field(default_factory=dict)
    visible_share: Mapping[Hide, Mapping[str, float]] = field(default_factory=dict)
    suggestions: Mapping[str, Suggestions] = field(default_factory=dict)

    def to_json(self) -> str:
        """Indented JSON with the keys in the order of the fields, and the checksum of them."""
        values = asdict(self)
        return json.dumps({**values, "checksum": content_checksum(values)}, indent=2, ensure_ascii=False)


def run_evaluation(
    scorers: Sequence[Scorer],
    packed: PackedFile,
    vocab: Vocab,
    settings: EvaluationSettings,
    report: Callable[[str], None] = lambda _: None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Figures of `scorers` and of the baselines on at most ``settings.max_posts`` test posts of `packed`.

    Baselines and implications come from training posts only; hyper-parameters are chosen on validation posts.

    Args:
        scorers: the models; those with ``embed`` also take part in split-half retrieval.
        packed: the packed file, made with `vocab`.
        vocab: its vocabulary.
        settings: seed, baselines and their grids.
        report: called with a line after each step.
        notes: sentences about the models that come first among the caveats.

    Raises:
        ValueError: a split has nothing to fit, tune or test on, or a model has a baseline's name.
        ScoreError: a model's scores cannot be ranked.
    """
    rows = sample_rows(packed, "test", settings, vocab.num_tags)
    captions, post_ids = captions_from_packed(packed, vocab, rows), packed.post_id[rows]
    asked = {hide: hold_out(captions, post_ids, hide, settings.seed, vocab.is_unknown) for hide in HIDES}
    if not asked["one"].num_posts:
        raise ValueError("no test post has two tags of the vocabulary; give more posts or raise test_share")
    validation = validation_tasks(packed, vocab, settings)
    train = PackedCaptions(packed, vocab, rows_of_split(packed, "train"))
    pairs = count_cooccurrence(train, settings.max_fitted_tags)
    report(f"counted the tags of {pairs.num_posts:,} posts")
    implied = implied_pairs(train, settings.implied_threshold, settings.implied_min_count, pairs)
    train.give_back()
    tasks = {hide: _Task(held_out, without_implied(held_out, implied)) for hide, held_out in asked.items()}
    halves = split_halves(captions, post_ids, settings.seed, vocab.is_unknown)
    retrieval: dict[str, Metrics] = {}
    for scorer in scorers:
        for task in tasks.values():
            task.rank(scorer, report)
        _split_half(scorer, halves, retrieval)
    baselines = tune_baselines(train, pairs, validation, settings, report)
    chosen, left_out = _rank_baselines(baselines, tasks, halves, retrieval, report)
    groups = groups_of_tags(vocab, pairs.counts)
    split_sizes = {split: len(rows_of_split(packed, split)) for split in SPLITS}
    results = {hide: task.figures(groups, [scorer.name for scorer in scorers]) for hide, task in tasks.items()}
    return Evaluation(
        seed=settings.seed,
        split_sizes=split_sizes,
        num_tags=vocab.num_tags,
        num_fitted_tags=len(pairs.fitted),
        tasks={hide: result.whole for hide, result in results.items()},
        without_implied={hide: result.without_implied for hide, result in results.items()},
        num_implied_pairs=implied.nnz,
        implied_threshold=settings.implied_threshold,
        split_half_retrieval=SplitHalfResult(halves[0].shape[0], retrieval),
        chosen=chosen,
        caveats=(
            *notes,
            *_caveats(results["half"], captions, packed.rating[rows]),
            *_fewer_posts(len(rows), split_sizes["test"], vocab.num_tags, settings),
            *left_out,
        ),
        probes=run_probes(scorers, packed, vocab, settings, report),
        by_group={hide: result.by_group for hide, result in results.items()},
        by_group_without_implied={hide: result.by_group_without_implied for hide, result in results.items()},
        visible_share={hide: result.visible_share for hide, result in results.items()},
        suggestions=next(
            (suggestions_of(one, captions, post_ids, vocab, settings.seed) for one in scorers if one.name == _HEAD), {}
        ),
    )


def _rank_baselines(
    baselines: Iterable[TunedBaseline],
    tasks: Mapping[Hide, _Task],
    halves: tuple[CaptionMatrix, CaptionMatrix],
    retrieval: dict[str, Metrics],
    report: Callable[[str], None],
) -> tuple[Mapping[str, Mapping[str, Params]], list[str]]:
    """Ranks each of `baselines` on `tasks` and `halves` before the next is fitted.

    Returns their hyper-parameters, and a sentence for each that is left out.
    """
    params: dict[str, Mapping[str, Params]] = {}
    left_out = []
    for baseline in baselines:
        for hide, task in tasks.items():
            if hide in baseline.best:
                task.rank(baseline.best[hide].fit(), report)
        if SPLIT_HALF_RETRIEVAL in baseline.best:
            _split_half(baseline.best[SPLIT_HALF_RETRIEVAL].fit(), halves, retrieval)
        params[baseline.name] = baseline.params
        left_out += [baseline.left_out] if baseline.left_out else []
        del baseline  # its scorers take memory
    return chosen_params(params), left_out


def evaluate_captions(
    scorers: Sequence[Scorer],
    baselines: Baselines,
    captions: CaptionMatrix,
    post_ids: NDArray[np.int64],
    hide: Hide,
    seed: int,
    is_unknown: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """``{"hide": …, "num_posts": …, "models": {name: {"recall@1": …, …}}}`` of one task on the given posts.

    Args:
        scorers: the models.
        baselines: fitted on the models' training split.
        captions: [num_posts, num_tags]; without the tags that are not in the vocabulary.
        post_ids: int64[num_posts].
        hide: the task.
        seed: decides which tags are hidden.
        is_unknown: ``vocab.is_unknown``; None if there is no unknown token.

    Raises:
        ValueError: no post has two tags of the vocabulary.
        ScoreError: a model's scores cannot be ranked.
    """
    held_out = hold_out(captions, post_ids, hide, seed, is_unknown)
    every = (*scorers, *baselines.scorers[hide])
    models = {scorer.name: evaluate_scorer(scorer, held_out) for scorer in every}
    return {"hide": hide, "num_posts": held_out.num_posts, "models": models}


@dataclass(frozen=True)
class _TaskFigures:
    """A task with and without implied tags, both also by group of tags, and the models' shares on visible tags."""

    whole: TaskResult
    without_implied: TaskResult
    by_group: Mapping[str, TaskResult]
    by_group_without_implied: Mapping[str, TaskResult]
    visible_share: Mapping[str, float]


class _Task:
    """A task with and without implied tags, and the ranks that each scorer gave its hidden tags."""

    def __init__(self, held_out: HeldOut, left: HeldOut) -> None:
        self.asked = (held_out, left)
        self._ranked: dict[str, list[Ranked]] = {}

    def rank(self, scorer: Scorer, report: Callable[[str], None]) -> None:
        """Scores the posts once."""
        if scorer.name in self._ranked:
            raise ValueError(f"two scorers are called {scorer.name!r}; rename one")
        self._ranked[scorer.name] = rank_hidden(scorer, self.asked)
        report(f"evaluated {scorer.name} on {self.asked[0].num_posts} posts")

    def figures(self, groups: Mapping[str, NDArray[np.bool_]], models: Sequence[str]) -> _TaskFigures:
        """All figures; what is not one of `models` is a baseline."""
        baselines = [name for name in self._ranked if name not in models]
        whole, left = (
            _figures(
                task.hidden, {name: both[i].ranks for name, both in self._ranked.items()}, groups, models, baselines
            )
            for i, task in enumerate(self.asked)
        )
        shares = {name: float(self._ranked[name][0].visible_share.mean()) for name in models}
        return _TaskFigures(whole[0], left[0], whole[1], left[1], shares)


def _figures(
    hidden: CaptionMatrix,
    ranks: Mapping[str, NDArray[np.int64]],
    groups: Mapping[str, NDArray[np.bool_]],
    models: Sequence[str],
    baselines: Sequence[str],
) -> tuple[TaskResult, dict[str, TaskResult]]:
    """Figures of all `hidden` tags, and of those in each of the `groups` that has any."""
    by_group: dict[str, TaskResult] = {}
    for group, is_asked in groups.items():
        if not is_asked[hidden.indices].any():
            continue
        of_group = {name: ranks_of_group(of_scorer, hidden, is_asked) for name, of_scorer in ranks.items()}
        asked = next(iter(of_group.values()))[1]
        by_group[group] = _result(asked, {name: own for name, (own, _) in of_group.items()}, models, baselines)
    return _result(hidden, ranks, models, baselines), by_group


def _result(
    hidden: CaptionMatrix, ranks: Mapping[str, NDArray[np.int64]], models: Sequence[str], baselines: Sequence[str]
) -> TaskResult:
    """Figures of the hidden tags `hidden` [n, num_tags] from each scorer's ranks."""
    if not hidden.shape[0]:
        return TaskResult(0, 0, {}, {})
    values: dict[str, PostMetrics] = {name: metrics_of_ranks(of_scorer, hidden) for name, of_scorer in ranks.items()}
    means = {name: mean_metrics(of_scorer) for name, of_scorer in values.items()}
    margins: dict[str, dict[str, Margin]] = {}
    for model in models if baselines else ():
        margins[model] = {}
        for metric in means[model]:
            best = max(baselines, key=lambda name: means[name][metric])
            differences = values[model][metric] - values[best][metric]
            error = float(differences.std()) / len(differences) ** 0.5
            margins[model][metric] = Margin(best, float(differences.mean()), error)
    return TaskResult(hidden.shape[0], hidden.nnz, means, margins)


def _split_half(scorer: Scorer, halves: tuple[CaptionMatrix, CaptionMatrix], found: dict[str, Metrics]) -> None:
    """Adds split-half retrieval of `scorer` to `found` if it embeds."""
    if isinstance(scorer, EmbeddingScorer):
        first, second = halves
        found[scorer.name] = {SPLIT_HALF_METRIC: split_half_recall(scorer.embed(first), scorer.embed(second))}


def _fewer_posts(num_posts: int, num_test: int, num_tags: int, settings: EvaluationSettings) -> list[str]:
    """A caveat if the vocabulary is so large that fewer posts are tested than ``max_posts``."""
    if num_posts == min(num_test, settings.max_posts):
        return []
    return [
        f"Tested on {num_posts:,} posts, not on {min(num_test, settings.max_posts):,}: with {num_tags:,} tags, these "
        f"would take more than [evaluation] max_scores = {settings.max_scores:,} scores; raise that to have them."
    ]


def _caveats(half: _TaskFigures, captions: CaptionMatrix, ratings: NDArray[np.uint8]) -> tuple[str, ...]:
    caveats = []
    implied_share = 1 - half.without_implied.num_hidden / half.whole.num_hidden
    if implied_share > 0:
        caveats.append(
            f"With half of the tags hidden, a visible tag implies {implied_share:.1%} of the hidden ones. The first "
            "tables therefore include easy finds."
        )
    fifth, median = np.percentile(np.diff(captions.indptr), [5, 50])
    if fifth >= _WELL_TAGGED:
        caveats.append(
            f"The posts were selected for many tags (95% have {fifth:.0f} or more, the median is {median:.0f}), so the "
            "figures say nothing about sparsely tagged posts."
        )
    seen = np.unique(ratings)
    if len(seen) == 1:
        caveats.append(f"Every post is rated {RATINGS[seen[0]]!r}, so the model's use of ratings is not tested.")
    return tuple(caveats)
