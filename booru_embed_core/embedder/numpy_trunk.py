"""The network's arithmetic by numpy: packed tokens of many sets to the state of each token, and to one of each set.

It computes `SetEncoder.forward` in float32, as `model.dense` does by torch: attention runs on sets of equal length
together, and pooling multiplies one vector per set and head by the values' matrix instead of every token's.

Shape legend: T tokens, S sets, L tokens of a set, H heads, D head dimension, d width, R rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.model.runs import Run
from booru_embed_core.settings import ModelSettings

Float32 = NDArray[np.float32]

_MAX_SCORES: Final = 1 << 24
"""Attention scores in memory at once: 64 MB."""


class FirstTables(NamedTuple):
    """What the first block computes of a token alone: ``[R, d]`` each, and None for a trunk without attention."""

    states: Float32
    queries: Float32 | None
    keys: Float32 | None
    values: Float32 | None


class NumpyTrunk:
    """The blocks and the pool of a network; threads may share it."""

    def __init__(self, settings: ModelSettings, weights: Mapping[str, Float32]) -> None:
        """`weights` are those of a checkpoint by name, without the table of tokens."""
        self._settings = settings
        self._weights = weights
        self._has_attention = settings.trunk == "attention"
        self._heads = settings.num_heads
        self._head_dim = settings.width // settings.num_heads
        # Both scales of the scores at once: the temperature of each head, and 1/sqrt(D).
        self._scales = {
            part: (np.exp(weights[f"{part}.attention.log_scale"]) * np.float32(self._head_dim**-0.5))[:, None]
            for part in [*(f"blocks.{index}" for index in range(settings.num_layers)), "pool"]
            if self._has_attention
        }

    def first_tables(self, inputs: Float32) -> FirstTables:
        """What the first block computes of tokens with the input states `inputs` ``[R, d]``."""
        states = self._before_attention(0, inputs)
        if not self._has_attention:
            return FirstTables(states, None, None, None)
        return FirstTables(states, *self._projected("blocks.0", rms_norm(states)))

    def states(
        self, inputs: Float32 | None, runs: list[Run], log_weights: Float32 | None, tables: FirstTables | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> Float32:  # fmt: skip
        """The state of each token, float32 ``[T, d]``.

        Args:
            inputs: input states ``[T, d]``; None with `tables`.
            runs: of the sets.
            log_weights: the logarithm of each token's weight ``[T]``; None if all weights are 1.
            tables: of all tokens that occur.
            rows: int64 ``[T]``, each token's row of `tables`.
        """
        x = inputs if tables is None else tables.states[rows]
        assert x is not None
        for index in range(self._settings.num_layers):
            is_known = tables is not None and index == 0
            x = x if is_known else self._before_attention(index, x)
            if self._has_attention:
                part = f"blocks.{index}"
                if tables is not None and is_known:
                    q, k, v = (table[rows] for table in tables[1:] if table is not None)
                else:
                    q, k, v = self._projected(part, rms_norm(x))
                x += self._attention(q, k, v, runs, log_weights) @ self._weights[f"{part}.attention.output.weight"].T
            if not self._settings.feed_forward_first:
                x += self.feed_forward(f"blocks.{index}.feed_forward", rms_norm(x))
        return x

    def pooled(self, x: Float32, runs: list[Run], weights: Float32 | None) -> Float32:
        """The pooled state of each set, float32 ``[S, d]``, of token states ``[T, d]`` and their `weights` ``[T]``."""
        if self._has_attention:
            found = self._summaries(x, runs, weights)
        else:
            found = rms_norm(np.concatenate([_scaled_sum(x, run, weights) for run in runs]))
        found += self.feed_forward("pool.feed_forward", rms_norm(found))
        return rms_norm(found)

    def feed_forward(self, part: str, x: Float32) -> Float32:
        """SwiGLU of `x`, float32 ``[T, d]``."""
        gate_up = x @ self._weights[f"{part}.gate_up.weight"].T
        gate, up = np.split(gate_up, 2, axis=1)
        with np.errstate(over="ignore"):  # of exp, where the quotient is 0
            inner = np.exp(-gate)
        inner += 1
        np.divide(gate, inner, out=inner)
        inner *= up
        down: Float32 = inner @ self._weights[f"{part}.down.weight"].T
        return down

    def _before_attention(self, index: int, x: Float32) -> Float32:
        if not self._settings.feed_forward_first:
            return x
        return x + self.feed_forward(f"blocks.{index}.feed_forward", rms_norm(x))

    def _projected(self, part: str, states: Float32) -> tuple[Float32, Float32, Float32]:
        """Queries, keys and values ``[T, d]`` of normalised `states` ``[T, d]``; queries have the scores' scale."""
        key_value = states @ self._weights[f"{part}.attention.key_value.weight"].T
        keys, values = np.split(key_value, 2, axis=1)
        return self._queries(part, states), self._normed_heads(keys), values

    def _queries(self, part: str, states: Float32) -> Float32:
        queries = states @ self._weights[f"{part}.attention.query.weight"].T
        scaled = self._normed_heads(queries).reshape(len(states), self._heads, -1) * self._scales[part]
        return scaled.reshape(len(states), -1)

    def _normed_heads(self, x: Float32) -> Float32:
        """`x` ``[T, d]``, each head of which is normalised by itself."""
        return rms_norm(x.reshape(-1, self._head_dim)).reshape(len(x), -1)

    def _attention(
        self, queries: Float32, keys: Float32, values: Float32, runs: list[Run], log_weights: Float32 | None
    ) -> Float32:
        """Softmax attention within each set, float32 ``[T, d]``, of projections ``[T, d]``."""
        mixed = np.empty_like(queries)
        for run in runs:
            shape = (*run.shape, self._heads, self._head_dim)
            q, k, v = (one[run.tokens].reshape(shape).transpose(0, 2, 1, 3) for one in (queries, keys, values))
            found = mixed[run.tokens].reshape(shape).transpose(0, 2, 1, 3)
            at_once = max(1, _MAX_SCORES // (run.shape[0] * self._heads * run.shape[1]))
            for start in range(0, run.shape[1], at_once):  # once, but for captions of thousands of tags
                part = slice(start, start + at_once)
                scores = q[:, :, part] @ k.transpose(0, 1, 3, 2)
                if log_weights is not None:
                    scores += log_weights[run.tokens].reshape(run.shape)[:, None, None]
                found[:, :, part] = _softmax(scores, -1) @ v
        return mixed

    def _summaries(self, x: Float32, runs: list[Run], weights: Float32 | None) -> Float32:
        """The summary token of each set after it attended over its set, float32 ``[S, d]``."""
        normed, heads, width = rms_norm(x), self._heads, x.shape[1]
        key_weight, value_weight = np.split(self._weights["pool.attention.key_value.weight"], 2)
        keys = self._normed_heads(normed @ key_weight.T)
        firsts = np.concatenate([np.arange(run.tokens.start, run.tokens.stop, run.shape[1]) for run in runs])
        queries = self._queries("pool", normed[firsts])
        means = np.empty((len(firsts), heads, width), np.float32)
        for run in runs:
            asked = queries[run.sets].reshape(run.shape[0], heads, 1, -1)
            known = keys[run.tokens].reshape(*run.shape, heads, -1).transpose(0, 2, 3, 1)
            scores = (asked @ known)[:, :, 0]
            if weights is not None:
                scores += np.log(weights[run.tokens]).reshape(run.shape)[:, None]
            np.matmul(_softmax(scores, -1), normed[run.tokens].reshape(*run.shape, width), out=means[run.sets])
        of_heads = means.transpose(1, 0, 2) @ value_weight.reshape(heads, -1, width).transpose(0, 2, 1)
        values = of_heads.transpose(1, 0, 2).reshape(len(firsts), width)
        summaries: Float32 = x[firsts] + values @ self._weights["pool.attention.output.weight"].T
        return summaries


def rms_norm(x: Float32) -> Float32:
    """`encoder.rms_norm`: `x` ``[n, d]`` scaled to a root mean square of 1 in each row."""
    root = np.sqrt(np.einsum("ij,ij->i", x, x)) * np.float32(x.shape[-1] ** -0.5)
    normed: Float32 = x * (1 / np.maximum(root, np.float32(1e-6)))[:, None]
    return normed


def _softmax(scores: Float32, axis: int) -> Float32:
    """The softmax of `scores`, in place."""
    scores -= scores.max(axis, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis, keepdims=True)
    return scores


def _scaled_sum(x: Float32, run: Run, weights: Float32 | None) -> Float32:
    """The weighted sum of each set's states divided by the root of the weights' sum, float32 ``[run's sets, d]``."""
    states = x[run.tokens].reshape(*run.shape, -1)
    given = np.ones(run.shape, np.float32) if weights is None else weights[run.tokens].reshape(run.shape)
    sums: Float32 = (given[:, None] @ states)[:, 0] / np.sqrt(given.sum(1, keepdims=True))
    return sums
