"""The network by numpy, for a few captions: torch takes longer to import than these take altogether.

It computes `SetEncoder.forward` in float32, set after set, over the mapped weights of a checkpoint.

Shape legend: T tokens of a set, H heads, D head dimension, d width, E embedding_dim, V tags.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import TagSets, sorted_tags, token_ids
from booru_embed_core.schema import NUM_CATEGORIES
from booru_embed_core.training.checkpoint_config import (
    REMEDY,
    WEIGHTS_FILE,
    CheckpointConfig,
    CheckpointError,
    verify_weights,
)
from booru_embed_core.training.mapped_weights import MappedWeights

Float32 = NDArray[np.float32]


class NumpyNetwork:
    """A `Network` in float32 for a few captions. Threads may share an instance; a pickled one reads its file again."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        """The network of a checkpoint's `folder`.

        Raises:
            CheckpointError: the weights are missing, damaged, or of another shape than `config` says.
        """
        file = folder.absolute() / WEIGHTS_FILE
        verify_weights(file, config)
        self._loaded_from = folder.absolute(), config
        self._mapped = MappedWeights(file)
        self._settings = config.model
        self._num_special = config.num_special
        self._categories = np.repeat(np.arange(NUM_CATEGORIES), config.category_sizes)
        table, bias = (self._mapped.arrays.get(name, np.empty(0)).shape for name in ("tokens.weight", "tag_bias"))
        num_tags = len(self._categories)
        if table != (config.num_special + num_tags, config.model.width) or bias != (num_tags,):
            raise CheckpointError(f"{file}: not this model's weights: tokens.weight of {list(table)}; {REMEDY}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._loaded_from

    @classmethod
    def load(cls, folder: Path, config: CheckpointConfig) -> Self:
        """The network of a checkpoint; its first caption shows whether it is whole.

        Raises:
            CheckpointError: as in the constructor; or a weight is missing, of another shape, NaN or infinite.
        """
        network, file = cls(folder, config), folder / WEIGHTS_FILE
        try:
            nothing = TagSets.without_metadata(np.empty(0, np.int64), np.zeros(1, np.int64))
            is_finite = (
                np.isfinite(network.tag_scores(nothing)).all() and np.isfinite(network.embeddings(nothing)).all()
            )
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{file}: not this model's weights ({error}); {REMEDY}") from None
        if not is_finite:
            raise CheckpointError(f"{file}: has weights that are NaN or infinite; {REMEDY}")
        return network

    def embeddings(self, sets: TagSets) -> Float32:
        """The bottleneck of each set, float32 ``[n, E]``."""
        # Set by set, here and below: a product with several has other last digits.
        embeddings = np.empty((len(sets.lengths), self._settings.embedding_dim), np.float32)
        for row, pooled in zip(embeddings, self._pooled(sets), strict=True):
            np.matmul(self._weight("bottleneck.weight"), pooled, out=row)
        return embeddings

    def tag_scores(self, sets: TagSets) -> Float32:
        """The completion head's logit of every tag, float32 ``[n, num_tags]``."""
        scores = np.empty((len(sets.lengths), len(self._categories)), np.float32)
        tags, of_categories = self._weight("tokens.weight")[self._num_special :], self._weight("categories.weight")
        for row, pooled in zip(scores, self._pooled(sets), strict=True):
            state = _rms_norm(pooled + self._feed_forward("head", pooled[None])[0])
            np.matmul(tags, state, out=row)
            row += (of_categories @ state)[self._categories]
        scores += self._weight("tag_bias")
        return scores

    def token_states(self, sets: TagSets) -> tuple[Float32, NDArray[np.int32]]:
        """The state of every token, float32 ``[tokens, d]``, and cu_seqlens int32 ``[n + 1]``."""
        states = [states for states, _ in self._states(sets)]
        cu_seqlens = np.concatenate([[0], np.cumsum([len(one) for one in states])]).astype(np.int32)
        width = self._settings.width
        return np.concatenate([np.empty((0, width), np.float32), *states]), cu_seqlens

    def _pooled(self, sets: TagSets) -> Float32:
        """The pooled state of each set, float32 ``[n, d]``."""
        pooled = np.empty((len(sets.lengths), self._settings.width), np.float32)
        for row, (states, weights) in enumerate(self._states(sorted_tags(sets))):
            if self._settings.trunk == "attention":
                first = states[:1]
                one = first + self._attention("pool", _rms_norm(first), _rms_norm(states), np.log(weights))
            else:
                one = _rms_norm((states * weights[:, None]).sum(0, keepdims=True) / np.sqrt(weights.sum()))
            pooled[row] = one + self._feed_forward("pool.feed_forward", _rms_norm(one))
        return _rms_norm(pooled)

    def _states(self, sets: TagSets) -> Iterator[tuple[Float32, Float32]]:
        """The states of the tokens of each set, float32 ``[T, d]``, and their weights, float32 ``[T]``."""
        ids, lengths = token_ids(sets, self._num_special)
        every_weight = np.ones(len(ids), np.float32)
        every_weight[ids >= self._num_special] = sets.tag_weights()
        ends = np.cumsum(lengths)
        for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True):
            weights = every_weight[start:end]
            x = self._tokens(ids[start:end])
            for block in range(self._settings.num_layers):
                if self._settings.feed_forward_first:
                    x = x + self._feed_forward(f"blocks.{block}.feed_forward", _rms_norm(x))
                if self._settings.trunk == "attention":
                    normed = _rms_norm(x)
                    x = x + self._attention(f"blocks.{block}", normed, normed, np.log(weights))
                if not self._settings.feed_forward_first:
                    x = x + self._feed_forward(f"blocks.{block}.feed_forward", _rms_norm(x))
            yield x, weights

    def _tokens(self, ids: NDArray[np.int64]) -> Float32:
        """The input states of tokens, float32 ``[T, d]``."""
        vectors = self._weight("tokens.weight")[ids]
        is_tag = ids >= self._num_special
        vectors[is_tag] += self._weight("categories.weight")[self._categories[ids[is_tag] - self._num_special]]
        return _rms_norm(vectors)

    def _attention(self, part: str, query_states: Float32, states: Float32, log_weights: Float32) -> Float32:
        """Attention of `query_states` ``[Q, d]`` over `states` ``[T, d]``, float32 ``[Q, d]``."""
        heads = self._settings.num_heads
        name = f"{part}.attention"
        scale = np.exp(self._weight(f"{name}.log_scale"))[:, None] * np.float32((states.shape[1] // heads) ** -0.5)
        queries = _rms_norm(
            (query_states @ self._weight(f"{name}.query.weight").T).reshape(len(query_states), heads, -1)
        )
        keys, values = np.split(states @ self._weight(f"{name}.key_value.weight").T, 2, axis=1)
        keys = _rms_norm(keys.reshape(len(states), heads, -1)).transpose(1, 2, 0)
        scores = (queries * scale).transpose(1, 0, 2) @ keys + log_weights
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = scores @ values.reshape(len(states), heads, -1).transpose(1, 0, 2)
        flat: Float32 = mixed.transpose(1, 0, 2).reshape(len(query_states), -1)
        return flat @ self._weight(f"{name}.output.weight").T

    def _feed_forward(self, part: str, x: Float32) -> Float32:
        gate, up = np.split(x @ self._weight(f"{part}.gate_up.weight").T, 2, axis=1)
        inner: Float32 = gate / (1 + np.exp(-gate)) * up
        return inner @ self._weight(f"{part}.down.weight").T

    def _weight(self, name: str) -> Float32:
        return self._mapped.arrays[name]


def _rms_norm(x: Float32) -> Float32:
    """`encoder.rms_norm`."""
    root = np.linalg.norm(x, axis=-1, keepdims=True) * np.float32(x.shape[-1] ** -0.5)
    normed: Float32 = x / np.maximum(root, np.float32(1e-6))
    return normed
