"""A task's figures from the ranks that each scorer gave its hidden tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.evaluation.metrics import (
    Metrics,
    PostMetrics,
    Ranked,
    mean_metrics,
    metrics_of_ranks,
    ranks_of_group,
)
from booru_embed_core.evaluation.tasks import HeldOut
from booru_embed_core.tokens.cooccurrence import CaptionMatrix


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
class TaskFigures:
    """A task with and without implied tags, both also by group of tags, and the models' shares on visible tags."""

    whole: TaskResult
    without_implied: TaskResult
    by_group: Mapping[str, TaskResult]
    by_group_without_implied: Mapping[str, TaskResult]
    visible_share: Mapping[str, float]


class Task:
    """A task with and without implied tags, and the ranks that each scorer gave its hidden tags."""

    def __init__(self, held_out: HeldOut, left: HeldOut) -> None:
        self.asked = (held_out, left)
        self._ranked: dict[str, Sequence[Ranked]] = {}

    def add(self, name: str, ranked: Sequence[Ranked]) -> None:
        """Takes what the scorer `name` made of both of `asked`."""
        self._ranked[name] = ranked

    def figures(self, groups: Mapping[str, NDArray[np.bool_]], models: Sequence[str]) -> TaskFigures:
        """All figures; what is not one of `models` is a baseline."""
        baselines = [name for name in self._ranked if name not in models]
        whole, left = (
            _figures(
                task.hidden, {name: both[i].ranks for name, both in self._ranked.items()}, groups, models, baselines
            )
            for i, task in enumerate(self.asked)
        )
        shares = {name: float(self._ranked[name][0].visible_share.mean()) for name in models}
        return TaskFigures(whole[0], left[0], whole[1], left[1], shares)


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
