"""Metrics of rankings of tags and of embeddings of posts.

A scorer gives every tag a score. Filtered tags (the visible ones) are not ranked. Ties go to the lower tag index, so
equal scores always give equal figures. Posts are scored in chunks to bound memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from booru_embed_core.evaluation.baselines import FittedScorer
from booru_embed_core.evaluation.tasks import HeldOut
from booru_embed_core.tokens.cooccurrence import CaptionMatrix
from booru_embed_core.vectors import unit_vectors

if TYPE_CHECKING:
    from booru_embed_core.evaluation.baselines import Scorer

Metrics: TypeAlias = "dict[str, float]"
PostMetrics: TypeAlias = "dict[str, NDArray[np.float64]]"

KS: Final = (1, 10, 50)
HEADLINE: Final = "recall@10"
"""The metric that hyper-parameters are chosen by."""
SPLIT_HALF_RETRIEVAL: Final = "split_half_retrieval"
"""The retrieval task: one half of a post's tags as the query, the other halves of all posts as the candidates."""
SPLIT_HALF_METRIC: Final = "recall@1"

_MAX_CELLS: Final = 2**24
"""Scores that are in memory at once: 64 MiB of float32."""
_EXP_CELLS: Final = 2**18
"""Numbers of float64 that the processor's cache holds."""
_LONG_ROW: Final = 2048
"""From as many tags on, hidden tags are compared one at a time."""


class ScoreError(ValueError):
    """Scores that cannot be ranked; the message names the scorer."""


def evaluate_scorer(scorer: Scorer, held_out: HeldOut) -> Metrics:
    """Means over posts of recall@k for each k in `KS`, and of the reciprocal rank, as ``{"recall@1": …, "mrr": …}``.

    For a post with hidden tags H, and the rank of each among all tags that are not filtered (1 is best):
        recall@k = |{h ∈ H: rank(h) ≤ k}| / min(k, |H|)
        mrr      = 1 / min_{h ∈ H} rank(h)

    Raises:
        ScoreError: a ranked score is NaN or infinite, or the scores have a wrong shape.
        ValueError: `held_out` has no posts.
    """
    (ranked,) = rank_hidden(scorer, [held_out])
    return mean_metrics(metrics_of_ranks(ranked.ranks, held_out.hidden))


def mean_metrics(values: PostMetrics) -> Metrics:
    """The mean over posts of each metric.

    Raises:
        ValueError: there are no posts.
    """
    if not all(len(of_posts) for of_posts in values.values()):
        raise ValueError("no post to evaluate: each needs two tags of the vocabulary; give more posts")
    return {metric: float(of_posts.mean()) for metric, of_posts in values.items()}


@dataclass(frozen=True, eq=False)
class Ranked:
    """A scorer's result on one task.

    Attributes:
        ranks: the rank of each hidden tag, in the order of ``hidden.indices``, int64[hidden.nnz].
        visible_share: the visible tags' share of the softmax over all tags, float64[n]; empty for baselines that score
            only the tags that they are fitted on.
    """

    ranks: NDArray[np.int64]
    visible_share: NDArray[np.float64]


def rank_hidden(scorer: Scorer, held_outs: Sequence[HeldOut], chunk: int = 1024) -> list[Ranked]:
    """The ranks of the hidden tags of each of `held_outs`, scored in one pass.

    The first of `held_outs` has all the posts. The others have the same visible tags for some of these posts, and hide
    or filter others (`implied.without_implied`). Of a `FittedScorer` only the tags that it is fitted on are scored.

    Raises:
        ScoreError: as `evaluate_scorer`.
    """
    if isinstance(scorer, FittedScorer) and len(scorer.pairs.fitted) < len(scorer.pairs.counts):
        return _rank_fitted(scorer, held_outs, chunk)
    first = held_outs[0]
    shares = [np.empty(0)]

    def score(visible: CaptionMatrix) -> NDArray[np.float32]:
        scores, visible_share = _checked_scores(scorer.name, scorer.scores(visible), visible)
        shares.append(visible_share)
        return scores

    ranks = _ranks(score, first.visible, held_outs, [(one.filtered, one.hidden) for one in held_outs], chunk)
    every = np.concatenate(shares)
    places = (np.searchsorted(first.post_index, held_out.post_index) for held_out in held_outs)
    return [Ranked(of_task, every[place]) for of_task, place in zip(ranks, places, strict=True)]


def scored_at_once(num_tags: int, at_most: int = 1024) -> int:
    """Posts of `num_tags` tags each that `rank_hidden` scores at once."""
    return max(1, min(at_most, _MAX_CELLS // max(1, num_tags)))


def _rank_fitted(scorer: FittedScorer, held_outs: Sequence[HeldOut], chunk: int) -> list[Ranked]:
    """`rank_hidden` of a baseline that ranks the tags that it does not know below the others, by popularity."""
    pairs, name = scorer.pairs, scorer.name
    is_fitted = np.zeros(len(pairs.counts), np.bool_)
    is_fitted[pairs.fitted] = True
    by_popularity = np.lexsort((np.arange(len(is_fitted)), -pairs.counts, is_fitted))
    place = np.empty(len(is_fitted), np.int64)
    place[by_popularity] = np.arange(len(is_fitted))  # from 0 for the most used tag that is not fitted

    def score(visible: CaptionMatrix) -> NDArray[np.float32]:
        return _checked_scores(name, scorer.fitted_scores(visible), pairs.select(visible), has_share=False)[0]

    selected = [(pairs.select(one.filtered), pairs.select(one.hidden)) for one in held_outs]
    found = []
    all_ranks = _ranks(score, held_outs[0].visible, held_outs, selected, chunk)
    for held_out, (filtered, _), of_fitted in zip(held_outs, selected, all_ranks, strict=True):
        asked = is_fitted[held_out.hidden.indices]
        rows = np.repeat(np.arange(held_out.num_posts), np.diff(held_out.hidden.indptr))[~asked]
        places = place[held_out.hidden.indices[~asked]]
        before = _num_below(places, rows, np.where(is_fitted, len(place), place), held_out.filtered)
        ranks = np.empty(held_out.hidden.nnz, np.int64)
        ranks[asked] = of_fitted
        ranks[~asked] = 1 + len(pairs.fitted) - filtered.getnnz(axis=1)[rows] + places - before
        found.append(Ranked(ranks, np.empty(0)))
    return found


def _num_below(
    places: NDArray[np.int64], rows: NDArray[np.int64], place: NDArray[np.int64], filtered: CaptionMatrix
) -> NDArray[np.int64]:
    """How many of a row's `filtered` tags lie before each of `places`, which belong to `rows`."""
    of_filtered = np.repeat(np.arange(filtered.shape[0]), np.diff(filtered.indptr)) * (len(place) + 1)
    held = np.sort(of_filtered + place[filtered.indices])
    starts = rows * (len(place) + 1)
    below: NDArray[np.int64] = np.searchsorted(held, starts + places) - np.searchsorted(held, starts)
    return below


def _ranks(
    score: Callable[[CaptionMatrix], NDArray[np.float32]],
    visible: CaptionMatrix,
    held_outs: Sequence[HeldOut],
    asked: Sequence[tuple[CaptionMatrix, CaptionMatrix]],
    chunk: int,
) -> list[NDArray[np.int64]]:
    """The ranks of the hidden tags of each of `held_outs` in the scores of `visible`, int64[hidden.nnz] each.

    Args:
        score: the scores of some captions, -inf at visible tags.
        visible: [n, num_tags], of the first of `held_outs`.
        held_outs: the posts.
        asked: filtered and hidden tags of each of `held_outs`, with the columns of the scores.
        chunk: posts that are scored at once.
    """
    positions = [np.searchsorted(held_outs[0].post_index, held_out.post_index) for held_out in held_outs]
    width = max(1, asked[0][0].shape[1])
    keys = [
        np.repeat(position, np.diff(hidden.indptr)) * width + hidden.indices
        for position, (_, hidden) in zip(positions, asked, strict=True)
    ]
    every = np.unique(np.concatenate(keys))
    num_better = np.empty(len(every), np.int64)
    num_filtered = [[np.empty(0, np.int64)] for _ in held_outs]
    step = scored_at_once(width, chunk)
    for start in range(0, visible.shape[0], step):
        stop = min(start + step, visible.shape[0])
        scores = score(visible[start:stop])
        chosen = slice(*np.searchsorted(every, (start * width, stop * width)))
        num_better[chosen] = _num_better(scores, every[chosen] // width - start, every[chosen] % width)
        for (filtered, hidden), position, part in zip(asked, positions, num_filtered, strict=True):
            own = slice(*np.searchsorted(position, (start, stop)))
            part.append(_num_better_filtered(scores, position[own] - start, filtered[own], hidden[own]))
    return [
        1 + num_better[np.searchsorted(every, of_task)] - np.concatenate(part)
        for of_task, part in zip(keys, num_filtered, strict=True)
    ]


def ranks_of_group(
    ranks: NDArray[np.int64], hidden: CaptionMatrix, is_asked: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], CaptionMatrix]:
    """Ranks and hidden tags of a group of tags, as if a post's other hidden tags were not ranked.

    These are also correct answers, so they do not count against the group:
        rank'(h) = rank(h) - |{other hidden h' of the post, not of the group: rank(h') < rank(h)}|

    Args:
        ranks: the ranks of all hidden tags, int64[hidden.nnz].
        hidden: [n, num_tags].
        is_asked: the group, bool[num_tags].

    Returns:
        The group's ranks, and its hidden tags in the posts that have any, [at most n, num_tags].
    """
    asked = is_asked[hidden.indices]
    rows = np.repeat(np.arange(hidden.shape[0]), np.diff(hidden.indptr))
    order = np.lexsort((ranks, rows))
    others = np.cumsum(~asked[order])
    before_post = np.concatenate(([0], others))[hidden.indptr[rows[order]]]
    better = np.empty_like(ranks)
    better[order] = others - before_post
    counts = np.bincount(rows[asked], minlength=hidden.shape[0])
    indptr = np.concatenate(([0], np.cumsum(counts[counts > 0])))
    of_group = sparse.csr_matrix(
        (hidden.data[asked], hidden.indices[asked], indptr), shape=(len(indptr) - 1, hidden.shape[1])
    )
    return (ranks - better)[asked], of_group


def hidden_ranks(
    scores: NDArray[np.float32], filtered: CaptionMatrix, hidden: CaptionMatrix, max_cells: int = _MAX_CELLS
) -> NDArray[np.int64]:
    """The rank from 1 of each hidden tag, in the order of ``hidden.indices``, int64[hidden.nnz].

    rank(h) = 1 + |{t not filtered: s_t > s_h, or s_t = s_h and t < h}|

    Args:
        scores: [n, num_tags]; finite but for tags of `filtered`.
        filtered: [n, num_tags], disjoint from `hidden`.
        hidden: [n, num_tags].
        max_cells: scores that are compared at once.
    """
    rows = np.repeat(np.arange(hidden.shape[0]), np.diff(hidden.indptr))
    better = _num_better(scores, rows, hidden.indices.astype(np.int64), max_cells)
    return 1 + better - _num_better_filtered(scores, np.arange(len(scores)), filtered, hidden)


def _num_better_filtered(
    scores: NDArray[np.float32], places: NDArray[np.int64], filtered: CaptionMatrix, hidden: CaptionMatrix
) -> NDArray[np.int64]:
    """How many filtered tags of a post are better than each hidden one, whose posts are the rows `places` of `scores`.

    They are few, so that all tags need be compared only once for several tasks. Visible tags have -inf, and are none.
    """
    of_hidden = np.repeat(np.arange(hidden.shape[0]), np.diff(hidden.indptr))
    counts = np.diff(filtered.indptr)[of_hidden]
    ends = np.cumsum(counts)
    others = filtered.indices[np.repeat(filtered.indptr[of_hidden] - (ends - counts), counts) + np.arange(counts.sum())]
    asked = np.repeat(np.arange(len(of_hidden)), counts)
    rows, own = places[of_hidden[asked]], hidden.indices[asked]
    of_others, of_own = scores[rows, others], scores[rows, own]
    is_better = (of_others > of_own) | ((of_others == of_own) & (others < own))
    return np.bincount(asked[is_better], minlength=len(of_hidden))


def _num_better(
    scores: NDArray[np.float32], rows: NDArray[np.int64], tags: NDArray[np.int64], max_cells: int = _MAX_CELLS
) -> NDArray[np.int64]:
    """|{t: s_t > s_h, or s_t = s_h and t < h}| for each hidden tag h = ``tags[i]`` of the row ``rows[i]``."""
    found = np.empty(len(rows), dtype=np.int64)
    if scores.shape[1] >= _LONG_ROW:
        for i, (row, tag) in enumerate(zip(rows.tolist(), tags.tolist(), strict=True)):
            of_row = scores[row]
            own = of_row[tag]
            found[i] = np.count_nonzero(of_row > own) + np.count_nonzero(of_row[:tag] == own)
        return found
    every_tag, columns = np.arange(scores.shape[1]), tags[:, None]
    step = max(1, max_cells // max(1, scores.shape[1]))
    for start in range(0, len(rows), step):
        pairs = slice(start, start + step)
        others = scores[rows[pairs]]
        own = np.take_along_axis(others, columns[pairs], axis=1)
        better = (others > own) | ((others == own) & (every_tag < columns[pairs]))
        found[pairs] = np.count_nonzero(better, axis=1)
    return found


def split_half_recall(embed_a: NDArray[np.float32], embed_b: NDArray[np.float32], chunk: int = 1024) -> float:
    """Recall@1 of split-half retrieval: one half of each post is the query, the other halves are the candidates.

    The mean of both directions. With unit vectors a_i, b_i of the halves of post i, and ties given to the lower index:
        ½ · mean_i [argmax_j a_i·b_j = i] + ½ · mean_i [argmax_j b_i·a_j = i]

    Args:
        embed_a: [n, dim], row i is one half of post i.
        embed_b: [n, dim], row i is the other half.
        chunk: rows that are compared with all others at once.

    Raises:
        ValueError: shapes differ, there are no posts, or an embedding is NaN or infinite.
    """
    if embed_a.shape != embed_b.shape or not len(embed_a):
        raise ValueError(f"halves of shapes {embed_a.shape} and {embed_b.shape}; give two embeddings of the same posts")
    if not (np.isfinite(embed_a).all() and np.isfinite(embed_b).all()):
        raise ValueError("an embedding is NaN or infinite; train the model with a lower [training] learning_rate")
    a, b = unit_vectors(embed_a), unit_vectors(embed_b)
    return (_nearest_is_own(a, b, chunk) + _nearest_is_own(b, a, chunk)) / 2


def _nearest_is_own(queries: NDArray[np.float32], keys: NDArray[np.float32], chunk: int) -> float:
    found = 0
    step = max(1, min(chunk, _MAX_CELLS // len(keys)))
    for start in range(0, len(queries), step):
        nearest = np.argmax(queries[start : start + step] @ keys.T, axis=1)
        found += int(np.count_nonzero(nearest == np.arange(start, start + len(nearest))))
    return found / len(queries)


def _checked_scores(
    name: str, given: NDArray[np.float32], visible: CaptionMatrix, *, has_share: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A copy of the scores `given` to `visible`, -inf at the visible tags and finite elsewhere.

    Also the visible tags' share of the softmax over the original scores, float64[n]; empty unless `has_share`.
    """
    scores = np.array(given, dtype=np.float32)
    if scores.shape != visible.shape:
        raise ScoreError(f"{name}: scores of shape {scores.shape} for captions of {visible.shape}; correct the scorer")
    rows, tags = visible.nonzero()
    of_visible = scores[rows, tags].astype(np.float64)
    scores[rows, tags] = -np.inf
    num_bad = scores.size - visible.nnz - sum(np.count_nonzero(np.isfinite(row)) for row in scores)
    if num_bad:
        raise ScoreError(f"{name}: {num_bad} of {scores.size} scores are NaN or infinite; correct the scorer")
    if not has_share:
        return scores, np.empty(0)
    of_visible[~np.isfinite(of_visible)] = -np.inf  # a scorer may mask the visible tags
    highest = scores.max(axis=1).astype(np.float64)
    np.maximum.at(highest, rows, of_visible)
    mass = np.bincount(rows, np.exp(of_visible - highest[rows]), minlength=len(scores))
    step = max(1, _EXP_CELLS // max(1, scores.shape[1]))
    others = [
        np.exp(scores[i : i + step] - highest[i : i + step, None]).sum(axis=1) for i in range(0, len(scores), step)
    ]
    return scores, mass / (mass + np.concatenate([np.empty(0), *others]))


def metrics_of_ranks(ranks: NDArray[np.int64], hidden: CaptionMatrix, ks: Sequence[int] = KS) -> PostMetrics:
    """Metrics of each post, float64[n], from the `ranks` of its tags in `hidden` [n, num_tags], at least one each."""
    num_hidden = hidden.getnnz(axis=1)
    starts = np.cumsum(num_hidden) - num_hidden
    values: PostMetrics = {}
    for k in ks:
        hits = np.add.reduceat(ranks <= k, starts, dtype=np.int64) if len(starts) else np.empty(0, np.int64)
        values[f"recall@{k}"] = hits / np.minimum(k, num_hidden)
    best = np.minimum.reduceat(ranks, starts) if len(starts) else np.empty(0, np.int64)
    values["mrr"] = 1 / best
    return values
