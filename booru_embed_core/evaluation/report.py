"""The evaluation of models and baselines on the test split, as data.

`markdown` renders it as text. Plots are drawn elsewhere from `Evaluation`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.evaluation.baseline_parts import FittedOn, rank_by_baselines
from booru_embed_core.evaluation.baselines import Scorer
from booru_embed_core.evaluation.counting import counted_implications, counted_pairs
from booru_embed_core.evaluation.groups import groups_of_tags
from booru_embed_core.evaluation.implied import without_implied
from booru_embed_core.evaluation.metrics import Metrics, evaluate_scorer
from booru_embed_core.evaluation.model_parts import rank_by_models
from booru_embed_core.evaluation.probes import ProbeResult, run_probes
from booru_embed_core.evaluation.suggestions import Suggestions, suggestions_of
from booru_embed_core.evaluation.task_figures import Task, TaskFigures, TaskResult
from booru_embed_core.evaluation.tasks import HIDES, HeldOut, Hide, hold_out, sample_rows
from booru_embed_core.evaluation.tuning import Baselines, Params, validation_tasks
from booru_embed_core.json_files import content_checksum
from booru_embed_core.schema import RATINGS, SPLITS
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, PackedCaptions
from booru_embed_core.training.parts import Parts

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile

_HEAD: Final = "booru-embed-head"
"""The scorer whose softmax completions show; its module imports torch."""
_WELL_TAGGED: Final = 20
"""95% of posts have this many tags only in an export that was selected for them: site-wide, p5 is 10 general tags."""


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
        notes: sentences about the models that one must know to read the figures, such as that of a practice run.
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
    notes: Sequence[str] = ()

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
    parts: Parts | None = None,
) -> Evaluation:
    """Figures of `scorers` and of the baselines on at most ``settings.max_posts`` test posts of `packed`.

    Baselines and implications come from training posts only; hyper-parameters are chosen on validation posts. With
    several ranks the others call `help_to_evaluate`; the figures are the same.

    Args:
        scorers: the models; those with ``embed`` also take part in split-half retrieval.
        packed: the packed file, made with `vocab`.
        vocab: its vocabulary.
        settings: seed, baselines and their grids.
        report: called with lines of progress.
        notes: sentences about the models that the report begins with.
        parts: compute the parts, and keep what is finished; their source names all other arguments.

    Raises:
        ValueError: a split has nothing to fit, tune or test on, or a model has a baseline's name.
        ScoreError: a model's scores cannot be ranked.
        RankLostError: another rank ended; finished parts stay.
    """
    posts = _test_posts(packed, vocab, settings)
    found = _computed(scorers, posts, packed, vocab, settings, report, parts or Parts())
    groups = groups_of_tags(vocab, found.counts)
    split_sizes = {split: len(rows_of_split(packed, split)) for split in SPLITS}
    results = {hide: task.figures(groups, [scorer.name for scorer in scorers]) for hide, task in found.tasks.items()}
    return Evaluation(
        seed=settings.seed,
        split_sizes=split_sizes,
        num_tags=vocab.num_tags,
        num_fitted_tags=found.num_fitted_tags,
        tasks={hide: result.whole for hide, result in results.items()},
        without_implied={hide: result.without_implied for hide, result in results.items()},
        num_implied_pairs=found.num_implied_pairs,
        implied_threshold=settings.implied_threshold,
        split_half_retrieval=SplitHalfResult(posts.asked["half"].num_posts, found.retrieval),
        chosen=found.chosen,
        caveats=(
            *_caveats(results["half"], posts.captions, packed.rating[posts.rows]),
            *_fewer_posts(len(posts.rows), split_sizes["test"], vocab.num_tags, settings),
            *found.left_out,
        ),
        probes=found.probes,
        by_group={hide: result.by_group for hide, result in results.items()},
        by_group_without_implied={hide: result.by_group_without_implied for hide, result in results.items()},
        visible_share={hide: result.visible_share for hide, result in results.items()},
        suggestions=found.suggestions,
        notes=tuple(notes),
    )


def help_to_evaluate(
    scorers: Sequence[Scorer],
    packed: PackedFile,
    vocab: Vocab,
    settings: EvaluationSettings,
    parts: Parts,
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Does this rank's share of the work of `run_evaluation`, which the first rank calls with the same arguments.

    Raises:
        ValueError: as `run_evaluation`.
    """
    _computed(scorers, _test_posts(packed, vocab, settings), packed, vocab, settings, report, parts)


@dataclass(frozen=True, eq=False)
class _TestPosts:
    """The rows of the test posts, their captions, and both tasks."""

    rows: NDArray[np.int64]
    captions: CaptionMatrix
    asked: Mapping[Hide, HeldOut]


def _test_posts(packed: PackedFile, vocab: Vocab, settings: EvaluationSettings) -> _TestPosts:
    rows = sample_rows(packed, "test", settings, vocab.num_tags)
    captions, post_ids = PackedCaptions(packed, vocab, rows)[:], packed.post_id[rows]
    asked = {hide: hold_out(captions, post_ids, hide, settings.seed, vocab.is_unknown) for hide in HIDES}
    if not asked["one"].num_posts:
        raise ValueError("no test post has two tags of the vocabulary; give more posts or raise test_share")
    return _TestPosts(rows, captions, asked)


@dataclass(frozen=True, eq=False)
class _Computed:
    """What ranks compute, part by part."""

    counts: NDArray[np.float64]
    num_fitted_tags: int
    num_implied_pairs: int
    tasks: Mapping[Hide, Task]
    retrieval: Mapping[str, Metrics]
    chosen: Mapping[str, Mapping[str, Params]]
    left_out: Sequence[str]
    probes: Mapping[str, ProbeResult]
    suggestions: Mapping[str, Suggestions]


def _computed(
    scorers: Sequence[Scorer],
    posts: _TestPosts,
    packed: PackedFile,
    vocab: Vocab,
    settings: EvaluationSettings,
    report: Callable[[str], None],
    parts: Parts,
) -> _Computed:
    _check_names(scorers, settings)
    validation = validation_tasks(packed, vocab, settings)
    train = PackedCaptions(packed, vocab, rows_of_split(packed, "train"))
    pairs = counted_pairs(train, settings, parts)
    report(f"counted the tags of {pairs.num_posts:,} posts")
    implied = counted_implications(train, settings, pairs, parts)
    tasks = {hide: Task(held_out, without_implied(held_out, implied)) for hide, held_out in posts.asked.items()}
    retrieval = rank_by_models(scorers, tasks, parts, report)
    baselines = rank_by_baselines(FittedOn(train, pairs, validation, tasks, settings), parts, report)
    counts, num_fitted = pairs.counts, len(pairs.fitted)
    del pairs  # 268 MB at 8,192 tags
    probes = run_probes(scorers, packed, vocab, settings, report, parts)
    asked = (posts.captions, packed.post_id[posts.rows], vocab, settings.seed, parts)
    suggestions: Mapping[str, Suggestions] = next(
        (suggestions_of(one, *asked) for one in scorers if one.name == _HEAD), {}
    )
    if num_taken := parts.num_taken():
        report(f"{num_taken} parts were finished before")
    return _Computed(
        counts=counts,
        num_fitted_tags=num_fitted,
        num_implied_pairs=implied.nnz,
        tasks=tasks,
        retrieval={**retrieval, **baselines.retrieval},
        chosen=baselines.chosen,
        left_out=baselines.left_out,
        probes=probes,
        suggestions=suggestions,
    )


def _check_names(scorers: Sequence[Scorer], settings: EvaluationSettings) -> None:
    names = [*(scorer.name for scorer in scorers), *settings.baselines]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two scorers are called {name!r}; rename one")


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


def _fewer_posts(num_posts: int, num_test: int, num_tags: int, settings: EvaluationSettings) -> list[str]:
    """A caveat if the vocabulary is so large that fewer posts are tested than ``max_posts``."""
    if num_posts == min(num_test, settings.max_posts):
        return []
    return [
        f"Tested on {num_posts:,} posts, not on {min(num_test, settings.max_posts):,}: with {num_tags:,} tags, these "
        f"would take more than [evaluation] max_scores = {settings.max_scores:,} scores; raise that to have them."
    ]


def _caveats(half: TaskFigures, captions: CaptionMatrix, ratings: NDArray[np.uint8]) -> tuple[str, ...]:
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
