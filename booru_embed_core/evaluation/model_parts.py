"""The models on the test posts, some posts at a time: each part is scored by all models, which share its states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.evaluation.baselines import EmbeddingScorer, Scorer
from booru_embed_core.evaluation.metrics import (
    SPLIT_HALF_METRIC,
    Metrics,
    Ranked,
    rank_hidden,
    scored_at_once,
    split_half_recall,
)
from booru_embed_core.evaluation.task_figures import Task
from booru_embed_core.evaluation.tasks import HeldOut, Hide
from booru_embed_core.training.parts import Arrays, Parts

PART_POSTS: Final = 1024
"""Posts of a part, rounded down to what is scored at once."""


def rank_by_models(
    scorers: Sequence[Scorer], tasks: Mapping[Hide, Task], parts: Parts, report: Callable[[str], None]
) -> dict[str, Metrics]:
    """Has `scorers` rank the hidden tags of `tasks`; returns the split-half retrieval of those that embed.

    Args:
        scorers: the models.
        tasks: what is asked; their results are added to them.
        parts: compute the parts.
        report: called with lines of progress.

    Raises:
        ScoreError: a model's scores cannot be ranked.
    """
    units = [(hide, rows) for hide, task in tasks.items() for rows in post_slices(*task.asked[0].visible.shape)]

    def compute(number: int) -> Arrays:
        hide, rows = units[number]
        found = _scored(scorers, _some_posts(tasks[hide].asked, rows), hide == "half")
        report(f"scored {rows.stop:,} of {tasks[hide].asked[0].num_posts:,} posts with {hide} hidden")
        return found

    found = parts.each("scored", len(units), compute) if scorers else []
    for hide, task in tasks.items():
        own = [result for (of, _), result in zip(units, found, strict=bool(scorers)) if of == hide]
        for i, scorer in enumerate(scorers):
            share = _joined(own, f"{i}/share")
            task.add(scorer.name, [Ranked(_joined(own, f"{i}/ranks/{j}"), share) for j in range(len(task.asked))])
            report(f"evaluated {scorer.name} on {task.asked[0].num_posts:,} posts with {hide} hidden")
    embedders = [(i, scorer.name) for i, scorer in enumerate(scorers) if isinstance(scorer, EmbeddingScorer)]

    def recall(number: int) -> Arrays:
        i = embedders[number][0]
        return {"recall": np.array(split_half_recall(_joined(found, f"{i}/visible"), _joined(found, f"{i}/hidden")))}

    recalls = parts.each("split-half", len(embedders), recall)
    return {name: {SPLIT_HALF_METRIC: float(one["recall"])} for (_, name), one in zip(embedders, recalls, strict=True)}


def _joined(results: Sequence[Arrays], key: str) -> NDArray[Any]:
    """The arrays `key` of those of `results` that have it, one after another."""
    return np.concatenate([result[key] for result in results if key in result])


def post_slices(num_posts: int, num_tags: int, at_once: int | None = None) -> list[slice]:
    """Slices of `num_posts` posts, about `PART_POSTS` each: what is scored at once is the same with any parts."""
    step = at_once or scored_at_once(num_tags)
    size = step * max(1, PART_POSTS // step)
    return [slice(start, min(start + size, num_posts)) for start in range(0, num_posts, size)]


def _scored(scorers: Sequence[Scorer], held_outs: Sequence[HeldOut], is_half: bool) -> Arrays:
    """Of each of `scorers` by its number: ranks, shares, and the embeddings of both halves if the posts are halved."""
    found: Arrays = {}
    for i, scorer in enumerate(scorers):
        ranked = rank_hidden(scorer, held_outs)
        found |= {f"{i}/ranks/{j}": one.ranks for j, one in enumerate(ranked)}
        found[f"{i}/share"] = ranked[0].visible_share
        if is_half and isinstance(scorer, EmbeddingScorer):
            found[f"{i}/visible"] = scorer.embed(held_outs[0].visible)
            found[f"{i}/hidden"] = scorer.embed(held_outs[0].hidden)
    return found


def _some_posts(held_outs: Sequence[HeldOut], rows: slice) -> list[HeldOut]:
    """Each of `held_outs` with the posts that are the rows `rows` of the first one."""
    posts = held_outs[0].post_index[rows]
    found = []
    for one in held_outs:
        own = slice(*np.searchsorted(one.post_index, (posts[0], posts[-1] + 1)).tolist())
        found.append(HeldOut(one.visible[own], one.hidden[own], one.filtered[own], one.post_index[own]))
    return found
