"""What completions suggest first: tags that follow from the caption anyway, or tags that say something.

Completions leave out what the vocabulary's implications give. These figures tell how much that is, before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.evaluation.baselines import Scorer
from booru_embed_core.evaluation.model_parts import post_slices
from booru_embed_core.evaluation.tasks import hold_out, keep_tags
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.cooccurrence import CaptionMatrix
from booru_embed_core.training.parts import Arrays, Parts

_VISIBLE_TAGS: Final = 6
_POSTS_AT_A_TIME: Final = 1024
_MAX_CELLS: Final = 2**22
"""Probabilities that are in memory at once: 32 MiB of float64."""


@dataclass(frozen=True)
class Suggestions:
    """The completions of captions, which are parts of posts.

    Attributes:
        num_posts: captions.
        first_is_implied: share of captions whose first suggestion a visible tag implies.
        implied_share: probability of all tags that visible tags imply, mean over captions.
        first_probability: probability of the first suggestion that is not implied, mean over captions.
        first_probability_alone: the same once implied tags are left out and the others have the sum 1.
    """

    num_posts: int
    first_is_implied: float
    implied_share: float
    first_probability: float
    first_probability_alone: float


def suggestions_of(
    scorer: Scorer,
    captions: CaptionMatrix,
    post_ids: NDArray[np.int64],
    vocab: Vocab,
    seed: int,
    parts: Parts | None = None,
) -> dict[str, Suggestions]:
    """Figures of `scorer`, whose softmax is a completion's probability, by what is visible: six tags, or half of them.

    Nothing where the vocabulary has no implications, or no post enough tags.

    Args:
        scorer: the completion head.
        captions: whole posts ``[n, num_tags]``.
        post_ids: int64 ``[n]``.
        vocab: the vocabulary with the implications.
        seed: decides which tags are visible.
        parts: compute the parts, some captions each.
    """
    visible = {
        f"{_VISIBLE_TAGS} tags": keep_tags(captions, post_ids, _VISIBLE_TAGS, seed, vocab.is_unknown),
        "half of the tags": hold_out(captions, post_ids, "half", seed, vocab.is_unknown).visible,
    }
    if not vocab.implications.num_pairs:
        return {}
    of_names = ((name, f"suggested-{i}", tags) for i, (name, tags) in enumerate(visible.items()) if tags.shape[0])
    return {name: _figures(scorer, tags, vocab, parts or Parts(), part) for name, part, tags in of_names}


def suggestions_table(found: Mapping[str, Suggestions]) -> list[str]:
    """A Markdown table with a row for each of `found`."""
    lines = ["| visible | posts | first is implied | probability of implied | first other | first other, alone |"]
    lines.append("|---|---|---|---|---|---|")
    for name, one in found.items():
        shares = (one.first_is_implied, one.implied_share, one.first_probability, one.first_probability_alone)
        lines.append(f"| {name} | {one.num_posts:,} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
    return lines


def _figures(scorer: Scorer, visible: CaptionMatrix, vocab: Vocab, parts: Parts, name: str) -> Suggestions:
    step = max(1, min(_POSTS_AT_A_TIME, _MAX_CELLS // max(1, vocab.num_tags)))
    slices = post_slices(*visible.shape, step)

    def compute(number: int) -> Arrays:
        own = visible[slices[number]]
        chunks = [_of_chunk(scorer, own[start : start + step], vocab) for start in range(0, own.shape[0], step)]
        return {"figures": np.concatenate(chunks, axis=1)}

    found = [one["figures"] for one in parts.each(name, len(slices), compute)]
    means = np.concatenate(found, axis=1).mean(axis=1)
    return Suggestions(visible.shape[0], *(float(mean) for mean in means))


def _of_chunk(scorer: Scorer, visible: CaptionMatrix, vocab: Vocab) -> NDArray[np.float64]:
    """The four figures of each caption, ``[4, n]``."""
    logits = getattr(scorer, "raw_scores", scorer.scores)
    scores = np.array(logits(visible), dtype=np.float64)
    rows = np.repeat(np.arange(visible.shape[0]), np.diff(visible.indptr))
    scores[:, vocab.is_unknown] = -np.inf
    scores[rows, visible.indices] = -np.inf
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    implied, num_implied = vocab.implications.effects_of_each(visible.indices)
    is_implied = np.zeros(scores.shape, np.bool_)
    is_implied[np.repeat(rows, num_implied), implied] = True
    first = probabilities.argmax(axis=1)
    others = np.where(is_implied, 0, probabilities)
    share, best = 1 - others.sum(axis=1), others.max(axis=1)
    alone = best / np.maximum(others.sum(axis=1), np.finfo(np.float64).tiny)
    return np.stack([is_implied[np.arange(len(first)), first], share, best, alone])
