"""The interface between the embedder and the trained network: numpy arrays in and out, for any backend.

A backend is a class with the three methods of `Network`, in a module that `BooruEmbedder.load` imports on first use:
``numpy_network`` (numpy), ``torch_network`` (torch) or ``onnx_network`` (onnxruntime). It takes sets of tags and knows
nothing of text, vocabularies or unit length. Several threads may call it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import RATING_TOKENS, SCORE_TOKENS, SPECIAL_TOKENS, SUMMARY_TOKEN

_SUMMARY_ID: Final = SPECIAL_TOKENS.index(SUMMARY_TOKEN)
_FIRST_RATING_ID: Final = SPECIAL_TOKENS.index(RATING_TOKENS[0])
_FIRST_SCORE_ID: Final = SPECIAL_TOKENS.index(SCORE_TOKENS[0])


@dataclass(frozen=True, eq=False)
class TagSets:
    """n captions as the network takes them.

    Attributes:
        tags: int64 ``[sum(lengths)]`` tag indices (``token_id - vocab.num_special``), set after set, distinct in a set.
        lengths: int64 ``[n]`` number of tags of each set, 0 allowed; n may be 0.
        ratings: int64 ``[n]`` rating ids, indices into ``schema.RATINGS``; -1 for no rating.
        score_bins: int64 ``[n]`` score deciles, 0 to 9; -1 for no score.
        weights: float32 ``[sum(lengths)]``, the weight of each tag, above 0 and finite; None if all are 1. A tag of
            weight w counts as w copies of itself.
    """

    tags: NDArray[np.int64]
    lengths: NDArray[np.int64]
    ratings: NDArray[np.int64]
    score_bins: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """The sets of all `batches`, at least one, in order."""
        weights = None
        if any(batch.weights is not None for batch in batches):
            weights = np.concatenate([batch.tag_weights() for batch in batches])
        return cls(
            np.concatenate([batch.tags for batch in batches]),
            np.concatenate([batch.lengths for batch in batches]),
            np.concatenate([batch.ratings for batch in batches]),
            np.concatenate([batch.score_bins for batch in batches]),
            weights,
        )

    @classmethod
    def without_metadata(cls, tags: NDArray[np.int64], lengths: NDArray[np.int64]) -> Self:
        """Sets without ratings and scores."""
        withheld = np.full(len(lengths), -1, dtype=np.int64)
        return cls(tags, lengths, withheld, withheld)

    def tag_weights(self) -> NDArray[np.float32]:
        """The weight of each tag, float32 ``[sum(lengths)]``: `weights`, or ones."""
        return np.ones(len(self.tags), dtype=np.float32) if self.weights is None else self.weights


class Network(Protocol):
    """A backend: sets in, arrays out, in bounded memory for any number of sets."""

    def embeddings(self, sets: TagSets) -> NDArray[np.float32]:
        """The bottleneck of each set, float32 ``[n, E]``, of any length: `SetEncoder.embed` of its pooled state.

        It depends neither on the order of a set's tags nor on the other sets. A set whose weights are all 1 gives the
        same as one without weights.
        """

    def tag_scores(self, sets: TagSets) -> NDArray[np.float32]:
        """The completion head's logit of every tag, float32 ``[n, num_tags]``.

        `SetEncoder.complete`, then `SetEncoder.tag_scores`, also for tags of the set and unknown tokens. The caller may
        change the array.
        """

    def token_states(self, sets: TagSets) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The state of every token, float32 ``[tokens, d]``, and cu_seqlens int32 ``[n + 1]``.

        The tokens of a set are the summary token, those of its rating and score if given, then its tags in their order.
        """


def token_ids(sets: TagSets, num_special: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids int64 ``[T]``, set after set, and the length of each, int64 ``[n]``; as `objective.read_tokens`."""
    every = np.arange(len(sets.lengths))
    ids, owners = [np.full_like(every, _SUMMARY_ID)], [every]
    for values, first_id in ((sets.ratings, _FIRST_RATING_ID), (sets.score_bins, _FIRST_SCORE_ID)):
        given = values >= 0
        ids.append(values[given] + first_id)
        owners.append(every[given])
    owner = np.concatenate([*owners, np.repeat(every, sets.lengths)])
    order = np.argsort(owner, kind="stable")
    return np.concatenate([*ids, sets.tags + num_special])[order], np.bincount(owner, minlength=len(every))


def sorted_tags(sets: TagSets) -> TagSets:
    """`sets` with the tags of each in ascending order, so that results do not depend on their order at all."""
    owners = np.repeat(np.arange(len(sets.lengths)), sets.lengths)
    order = np.lexsort((sets.tags, owners))
    return replace(sets, tags=sets.tags[order], weights=None if sets.weights is None else sets.weights[order])


def padded(states: NDArray[np.float32], cu_seqlens: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """`Network.token_states` padded with zeros, float32 ``[n, L, d]``, and which rows are tokens, bool ``[n, L]``."""
    lengths = np.diff(cu_seqlens)
    is_token = np.arange(lengths.max(initial=0)) < lengths[:, None]
    found = np.zeros((*is_token.shape, states.shape[1]), dtype=np.float32)
    found[is_token] = states
    return found, is_token
