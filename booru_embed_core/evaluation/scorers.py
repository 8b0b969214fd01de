"""Our model as scorers: visible captions in, scores of all tags or embeddings out.

Rating and score are withheld, because the baselines do not see them either.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from booru_embed_core.evaluation.baselines import Scorer
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.inference import encode_sets
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, caption_matrix

EMBEDDING_NAME: Final = "booru-embed"
COMPLETION_HEAD_NAME: Final = "booru-embed-head"
KEPT_POSTS: Final = 131_072
_FIRST: Final = 1e4
"""Larger than any difference between logarithms of shares."""


class PooledStates:
    """A cache of the pooled states of visible captions, shared by the scorers of one model.

    The encoder is nearly all of the work, and the bottleneck, its prefixes and the completion head read the same state.
    The newest are kept; 131,072 take 134 MB at width 256.
    """

    def __init__(
        self, model: SetEncoder, implications: Implications | None = None, max_posts: int = KEPT_POSTS
    ) -> None:
        self.model = model
        self.max_posts = max_posts
        self.implications = implications
        """Where the model was trained without implied tags, those to leave out of visible captions too."""
        self._closure: CaptionMatrix | None = None
        if implications is not None:
            num_tags = implications.num_tags
            self._closure = caption_matrix(implications.targets, implications.offsets, num_tags)
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._num_kept = 0
        self._vectors: torch.Tensor | None = None

    def of(self, visible: CaptionMatrix) -> torch.Tensor:
        """float32 ``[n, d]`` of `visible` ``[n, num_tags]``."""
        indices, indptr = visible.indices.astype(np.int64), visible.indptr.astype(np.int64)
        key = hashlib.blake2b(indices.tobytes() + indptr.tobytes()).digest()
        if key not in self._kept:
            lengths = np.diff(indptr)
            if self.implications is not None:
                keep = self.implications.is_kept(indices, lengths)
                rows = np.repeat(np.arange(len(lengths)), lengths)
                indices, lengths = indices[keep], np.bincount(rows[keep], minlength=len(lengths))
            self._kept[key] = encode_sets(self.model, indices, lengths)
            self._num_kept += len(lengths)
            while self._num_kept > self.max_posts and len(self._kept) > 1:
                self._num_kept -= len(self._kept.popitem(last=False)[1])
        return self._kept[key]

    def tag_scores(self, decoded: torch.Tensor) -> NDArray[np.float32]:
        """`SetEncoder.tag_scores` ``[n, num_tags]`` of decoded states ``[n, d]``; the tags' vectors are made once."""
        if self._vectors is None:
            self._vectors = self.model.tag_vectors()
        scores: NDArray[np.float32] = F.linear(decoded, self._vectors).add_(self.model.tag_bias).float().cpu().numpy()
        return scores

    def restored(self, scores: NDArray[np.float32], visible: CaptionMatrix) -> NDArray[np.float32]:
        """`scores` ``[n, num_tags]`` of a model that was trained without implied tags, as scores of whole posts.

        A tag has its own probability and that of each tag that implies it. Those that `visible` implies come first.
        """
        if self._closure is None:
            return scores
        hidden = scores.astype(np.float64)
        hidden[visible.nonzero()] = -np.inf
        shares = np.exp(hidden - hidden.max(axis=1, keepdims=True))
        shares += (self._closure.T @ shares.T).T
        found = np.log(np.maximum(shares, np.finfo(np.float64).tiny))
        found[(visible @ self._closure).nonzero()] += _FIRST
        return np.asarray(found, dtype=np.float32)


class BottleneckScorer:
    """Scores from the embedding, or from its first `dim` numbers."""

    def __init__(self, states: PooledStates, dim: int | None = None) -> None:
        self.states = states
        self.dim = dim or states.model.config.settings.embedding_dim

    @property
    def name(self) -> str:
        """The name in reports; that of a Matryoshka prefix contains its length."""
        is_whole = self.dim == self.states.model.config.settings.embedding_dim
        return EMBEDDING_NAME if is_whole else f"{EMBEDDING_NAME}-{self.dim}d"

    @torch.inference_mode()
    def scores(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        """Scores of all tags, float32 ``[n, num_tags]``."""
        model = self.states.model
        embedding = model.embed(self.states.of(visible))
        embedding[:, self.dim :] = 0
        return self.states.restored(self.states.tag_scores(model.decode(embedding)), visible)

    @torch.inference_mode()
    def embed(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        """Embeddings, float32 ``[n, dim]``, not normalised."""
        return self.states.model.embed(self.states.of(visible))[:, : self.dim].cpu().numpy()


class CompletionHeadScorer:
    """Scores from the completion head, which reads the state before the bottleneck; it has no embedding."""

    name = COMPLETION_HEAD_NAME

    def __init__(self, states: PooledStates) -> None:
        self.states = states

    def scores(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        """Scores of all tags, float32 ``[n, num_tags]``."""
        return self.states.restored(self.raw_scores(visible), visible)

    @torch.inference_mode()
    def raw_scores(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        """The logits of all tags, float32 ``[n, num_tags]``, from which completions take their probabilities."""
        model = self.states.model
        return self.states.tag_scores(model.complete(self.states.of(visible)))


def model_scorers(
    model: SetEncoder, implications: Implications | None = None, max_posts: int = KEPT_POSTS
) -> list[Scorer]:
    """Scorers of the embedding, the completion head, and each Matryoshka prefix, longest first.

    `implications` are those of a model that was trained without implied tags: visible captions then lack them too, and
    scores are those of whole posts. The pooled states of `max_posts` captions are kept.
    """
    states = PooledStates(model, implications, max_posts)
    prefixes = sorted(model.config.settings.matryoshka_dims, reverse=True)
    of_prefixes = (BottleneckScorer(states, dim) for dim in prefixes)
    return [BottleneckScorer(states), CompletionHeadScorer(states), *of_prefixes]
