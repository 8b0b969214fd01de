"""The trained network as the embedder calls it: numpy in, numpy out, whatever computes it.

A backend is a class with the three methods of `Network` and lies in a module of its own, which `BooruEmbedder.load`
imports on first use: ``torch_network`` (torch) and ``onnx_network`` (onnxruntime). It is handed sets of tags and knows
nothing of text, vocabularies or unit length. It may be called by several threads at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TagSets:
    """n captions as the network reads them.

    Attributes:
        tags: int64 ``[sum(lengths)]`` tag indices (``token_id - vocab.num_special``), set after set; none twice in one.
        lengths: int64 ``[n]`` tags of each set, 0 allowed; n may be 0.
        ratings: int64 ``[n]`` rating ids, places in ``schema.RATINGS``; -1 where none is given.
        score_bins: int64 ``[n]`` score deciles, 0 to 9; -1 where none is given.
    """

    tags: NDArray[np.int64]
    lengths: NDArray[np.int64]
    ratings: NDArray[np.int64]
    score_bins: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All sets of `parts`, at least one, after each other."""
        return cls(
            np.concatenate([part.tags for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.ratings for part in parts]),
            np.concatenate([part.score_bins for part in parts]),
        )


class Network(Protocol):
    """What computes: sets in, arrays out, in bounded memory however many sets there are."""

    def embeddings(self, sets: TagSets) -> NDArray[np.float32]:
        """The bottleneck of each set, float32 ``[n, E]``, not of unit length: `SetEncoder.embed` of its pooled state.

        The order of a set's tags, and the other sets beside it, change nothing.
        """

    def tag_scores(self, sets: TagSets) -> NDArray[np.float32]:
        """The completion head's logit of every tag, float32 ``[n, num_tags]``: `SetEncoder.complete`, then
        `SetEncoder.tag_scores`. Tags of the set and unknown tokens have theirs too. The array is the caller's.
        """

    def token_states(self, sets: TagSets) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """A state for every token, float32 ``[tokens, d]``, and cu_seqlens int32 ``[n + 1]``.

        The tokens of a set are the summary token, then its rating's and its score's where given, then its tags as they
        stand in `sets`.
        """
