"""The baselines as parts: each is fitted, tuned on validation posts, and ranks the hidden tags of the test posts.

A baseline whose candidates share the work of fitting is one part. EASE, EDLAE and item-kNN are several: first each
part of their grid is tuned, then what was chosen is fitted again for the test posts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from booru_embed_core.evaluation.baselines import EmbeddingScorer, Scorer
from booru_embed_core.evaluation.metrics import (
    SPLIT_HALF_METRIC,
    SPLIT_HALF_RETRIEVAL,
    Metrics,
    Ranked,
    rank_hidden,
    split_half_recall,
)
from booru_embed_core.evaluation.task_figures import Task
from booru_embed_core.evaluation.tasks import HeldOut, Hide
from booru_embed_core.evaluation.tuning import (
    Params,
    best_of,
    candidates,
    check_can_tune,
    chosen_params,
    fitted_line,
    group_of,
    num_groups,
    why_left_out,
)
from booru_embed_core.memory import trim_memory
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.cooccurrence import Captions, Cooccurrence
from booru_embed_core.training.parts import Arrays, Parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_SHARE = np.empty(0)


@dataclass(frozen=True, eq=False)
class FittedOn:
    """What baselines are fitted, tuned and tested on.

    Attributes:
        train: training captions, [num_posts, num_tags].
        pairs: their counts.
        validation: task → held-out tags of validation posts.
        tasks: task → the test posts.
        settings: names and grids.
    """

    train: Captions
    pairs: Cooccurrence
    validation: Mapping[Hide, HeldOut]
    tasks: Mapping[Hide, Task]
    settings: EvaluationSettings


@dataclass(frozen=True)
class BaselineResults:
    """What the baselines give besides ranks.

    Attributes:
        retrieval: name → split-half retrieval of those that embed.
        chosen: task or `SPLIT_HALF_RETRIEVAL` → baseline → its hyper-parameters.
        left_out: a sentence for each baseline that is not fitted.
    """

    retrieval: Mapping[str, Metrics]
    chosen: Mapping[str, Mapping[str, Params]]
    left_out: Sequence[str]


@dataclass(frozen=True, order=True)
class _Best:
    """A candidate: the lowest is the best, and of equal ones the first of the grid."""

    minus_value: float
    index: int
    params: str


def rank_by_baselines(data: FittedOn, parts: Parts, report: Callable[[str], None]) -> BaselineResults:
    """Fits and tunes the baselines of ``data.settings``, whose results are added to ``data.tasks``.

    Raises:
        ValueError: there is nothing to fit or to tune on.
    """
    check_can_tune(data.pairs, data.validation)
    names = data.settings.baselines
    reasons = {name: why_left_out(name, data.pairs, data.validation, data.settings) for name in names}
    for reason in filter(None, reasons.values()):
        report(reason)
    fitted = [name for name in names if not reasons[name]]
    found, best = _tuned(data, fitted, parts, report)
    _test_chosen(data, found, best, parts)
    retrieval: dict[str, Metrics] = {}
    for name in fitted:
        for hide, task in data.tasks.items():
            task.add(name, [Ranked(found[name][f"{hide}/ranks/{i}"], _NO_SHARE) for i in range(len(task.asked))])
            report(f"evaluated {name} on {task.asked[0].num_posts:,} posts with {hide} hidden")
        if (recall := found[name].get(f"{SPLIT_HALF_RETRIEVAL}/recall")) is not None:
            retrieval[name] = {SPLIT_HALF_METRIC: float(recall)}
    params: dict[str, dict[str, Params]] = {}
    for name in fitted:
        params[name] = {task: json.loads(one.params) for task, one in best[name].items()}
    return BaselineResults(retrieval, chosen_params(params), [reason for reason in reasons.values() if reason])


def _tuned(
    data: FittedOn, names: Sequence[str], parts: Parts, report: Callable[[str], None]
) -> tuple[dict[str, Arrays], dict[str, dict[str, _Best]]]:
    """Of each baseline: the results of its parts, in one, and its best candidate of each task."""
    units = [(name, group) for name in names for group in range(num_groups(name, data.settings))]

    def compute(number: int) -> Arrays:
        trim_memory()  # what the models or the fit before left: .7 GB with 8,192 fitted tags
        name, group = units[number]
        num = num_groups(name, data.settings)
        best = best_of(
            candidates(name, data.pairs, data.train, data.settings, group if num > 1 else None), data.validation
        )
        found: Arrays = {}
        for task, one in best.items():
            values = {"value": one.value, "index": one.index, "params": json.dumps(one.params)}
            found |= {f"{task}/{key}": np.array(value) for key, value in values.items()}
            if num == 1:
                found |= _tested(data, task, one.fit())
        report(f"tuned {name}" + (f", {group + 1} of {num}" if num > 1 else ""))
        return found

    results: dict[str, Arrays] = {name: {} for name in names}
    best: dict[str, dict[str, _Best]] = {name: {} for name in names}
    for (name, _), found in zip(units, parts.each("tuned", len(units), compute), strict=True):
        results[name] |= found
        for task in (*data.tasks, SPLIT_HALF_RETRIEVAL):
            if f"{task}/value" in found:
                value, index, params = (found[f"{task}/{key}"] for key in ("value", "index", "params"))
                one = _Best(-float(value), int(index), str(params))
                best[name][task] = min(one, best[name].get(task, one))
    for name in names:
        report(
            fitted_line(name, {task: (-one.minus_value, json.loads(one.params)) for task, one in best[name].items()})
        )
    return results, best


def _test_chosen(
    data: FittedOn, found: dict[str, Arrays], best: Mapping[str, Mapping[str, _Best]], parts: Parts
) -> None:
    """Adds to `found` the results on test posts of baselines that have several parts."""
    chosen: dict[tuple[str, int], list[str]] = {}
    for name, of_tasks in best.items():
        for task, one in of_tasks.items() if num_groups(name, data.settings) > 1 else ():
            chosen.setdefault((name, one.index), []).append(task)
    units = list(chosen.items())

    def compute(number: int) -> Arrays:
        trim_memory()
        (name, index), tasks = units[number]
        every = candidates(name, data.pairs, data.train, data.settings, group_of(name, index))
        scorer = next(fit for i, _, fit in every if i == index)()
        tested: Arrays = {}
        for task in tasks:
            tested |= _tested(data, task, scorer)
        return tested

    for ((name, _), _), tested in zip(units, parts.each("tested", len(units), compute), strict=True):
        found[name] |= tested


def _tested(data: FittedOn, task: str, scorer: Scorer) -> Arrays:
    """What `scorer` makes of the test posts: the ranks of a task's hidden tags, or its split-half recall."""
    for hide, of_task in data.tasks.items():
        if hide == task:
            ranked = rank_hidden(scorer, of_task.asked)
            return {f"{task}/ranks/{i}": one.ranks for i, one in enumerate(ranked)}
    assert isinstance(scorer, EmbeddingScorer)
    half = data.tasks["half"].asked[0]
    recall: NDArray[np.float64] = np.array(split_half_recall(scorer.embed(half.visible), scorer.embed(half.hidden)))
    return {f"{task}/recall": recall}
