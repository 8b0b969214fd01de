"""The network by numpy alone, in float32: it is ready before torch is imported, and needs no other package.

Many sets are computed part by part, those of similar length together. The tags' vectors stay in the file of a
checkpoint, and take memory where they are read.

Shape legend: T tokens, d width, E embedding_dim, V tags.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import TagSets, sorted_tags, token_ids
from booru_embed_core.embedder.numpy_trunk import FirstTables, Float32, NumpyTrunk, rms_norm
from booru_embed_core.model.runs import Run, runs_of
from booru_embed_core.schema import NUM_CATEGORIES
from booru_embed_core.training.checkpoint_config import (
    REMEDY,
    WEIGHTS_FILE,
    CheckpointConfig,
    CheckpointError,
)
from booru_embed_core.training.weights_file import TagTable, WeightsFile
from booru_embed_core.training.weights_layout import SCALES, TABLE

_BATCH_TOKENS: Final = 2048
"""Tokens computed together: 2 MB of states at width 256; more do not fit the cache."""
_MAX_ROWS: Final = 16_384
"""Distinct tokens of which the first block's work is kept for one call: 67 MB at width 256."""
_SCORED_TAGS: Final = 8192
"""Tags that are scored at once where their vectors are converted first: 8 MB at width 256."""


class _Part(NamedTuple):
    """Sets that are computed together: their rows in the input, their tokens, runs and weights (None: all are 1)."""

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]
    runs: list[Run]
    weights: Float32 | None


class NumpyNetwork:
    """A `Network` in float32. Threads may share an instance; a pickled one reads its file again."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        """The network of a checkpoint's `folder`.

        Raises:
            CheckpointError: the weights are missing, damaged, NaN or infinite, or not those of `config`.
        """
        weights = WeightsFile.read(folder.absolute() / WEIGHTS_FILE, config)
        self._file = weights.file
        self._loaded_from = folder.absolute(), config
        self._table = TagTable.of(weights.mapped)
        # Copies, which are aligned in memory.
        self._weights: dict[str, Float32] = {
            name: array.astype(np.float32)
            for name, array in weights.mapped.arrays.items()
            if name not in (TABLE, SCALES, "tag_bias")
        }
        self._weights["tag_bias"] = weights.mapped.arrays["tag_bias"]
        self._trunk = NumpyTrunk(config.model, self._weights)
        self._settings = config.model
        self._num_special = config.num_special
        self._categories = np.repeat(np.arange(NUM_CATEGORIES), config.category_sizes)
        if not weights.has_checksum:
            weights.check_finite()
        for name, array in self._weights.items():  # those of tags are many, and results are looked at anyway
            self._finite(array, name)

    @classmethod
    def load(cls, folder: Path, config: CheckpointConfig) -> Self:
        """The network of a checkpoint.

        Raises:
            CheckpointError: as in the constructor.
        """
        return cls(folder, config)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._loaded_from

    def embeddings(self, sets: TagSets) -> Float32:
        """The bottleneck of each set, float32 ``[n, E]``."""
        return self._finite(self._pooled(sets) @ self._weights["bottleneck.weight"].T)

    def tag_scores(self, sets: TagSets) -> Float32:
        """The completion head's logit of every tag, float32 ``[n, num_tags]``."""
        pooled = self._pooled(sets)
        states = rms_norm(pooled + self._trunk.feed_forward("head", pooled))
        scores = np.empty((len(states), len(self._categories)), np.float32)
        at_once = len(self._categories) if self._table.levels.dtype == np.float32 else _SCORED_TAGS
        for start in range(0, len(self._categories), max(1, at_once)):
            part = slice(start, min(start + at_once, len(self._categories)))
            vectors = self._table[self._num_special + part.start : self._num_special + part.stop]
            scores[:, part] = states @ vectors.T
        of_categories = states @ self._weights["categories.weight"].T
        bias = self._weights["tag_bias"]
        for row, of_row in zip(scores, of_categories, strict=True):
            row += of_row[self._categories]
            row += bias
        return self._finite(scores)

    def token_states(self, sets: TagSets) -> tuple[Float32, NDArray[np.int32]]:
        """The state of every token, float32 ``[tokens, d]``, and cu_seqlens int32 ``[n + 1]``."""
        ids, lengths = token_ids(sets, self._num_special)
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
        states = np.empty((cu_seqlens[-1], self._settings.width), np.float32)
        for part, found in self._states(sets, ids, lengths):
            states[part.tokens] = found
        return states, cu_seqlens.astype(np.int32)

    def _pooled(self, sets: TagSets) -> Float32:
        """The pooled state of each set, float32 ``[n, d]``."""
        pooled = np.empty((len(sets.lengths), self._settings.width), np.float32)
        sets = sorted_tags(sets)
        for part, states in self._states(sets, *token_ids(sets, self._num_special)):
            pooled[part.rows] = self._trunk.pooled(states, part.runs, part.weights)
        return pooled

    def _states(
        self, sets: TagSets, ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> Iterator[tuple[_Part, Float32]]:
        """Part by part, the state of each of its tokens, float32 ``[T, d]``."""
        distinct, tables = self._first_tables(ids)
        for part in self._parts(sets, ids, lengths):
            log_weights = None if part.weights is None else np.log(part.weights)
            own = ids[part.tokens]
            if tables is None:
                yield part, self._trunk.states(self._inputs(own), part.runs, log_weights)
            else:
                rows = np.searchsorted(distinct, own)
                yield part, self._trunk.states(None, part.runs, log_weights, tables, rows)

    def _first_tables(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], FirstTables | None]:
        """The distinct ones of `ids`, ascending, and the first block's work on them, None where it saves nothing."""
        if len(ids) <= _BATCH_TOKENS:
            return ids, None
        distinct = np.unique(ids)
        if len(distinct) > min(_MAX_ROWS, len(ids) // 2):
            return distinct, None
        return distinct, self._trunk.first_tables(self._inputs(distinct))

    def _parts(self, sets: TagSets, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Iterator[_Part]:
        """The sets in parts of a few thousand tokens, shorter sets first; a longer set is a part of its own."""
        weights = None
        if sets.weights is not None and not bool((sets.weights == 1).all()):
            weights = np.ones(len(ids), np.float32)
            weights[ids >= self._num_special] = sets.weights
        starts = np.cumsum(lengths) - lengths
        order = np.argsort(lengths, kind="stable")
        of_order, first = lengths[order], 0
        while first < len(order):
            ends = np.cumsum(of_order[first : first + _BATCH_TOKENS])
            num = max(1, int(np.searchsorted(ends, _BATCH_TOKENS, side="right")))
            rows = order[first : first + num]
            own = of_order[first : first + num]
            tokens = np.repeat(starts[rows] - (np.cumsum(own) - own), own) + np.arange(own.sum())
            yield _Part(rows, tokens, runs_of(own), None if weights is None else weights[tokens])
            first += num

    def _inputs(self, ids: NDArray[np.int64]) -> Float32:
        """The input states of tokens, float32 ``[T, d]``."""
        vectors = self._table[ids]
        is_tag = ids >= self._num_special
        vectors[is_tag] += self._weights["categories.weight"][self._categories[ids[is_tag] - self._num_special]]
        return rms_norm(vectors)

    def _finite(self, numbers: Float32, name: str = TABLE) -> Float32:
        """`numbers`: weights, or results of finite weights and those of the table.

        Raises:
            CheckpointError: one is NaN or infinite.
        """
        if not np.isfinite(numbers).all():
            raise CheckpointError(f"{self._file}: {name} has weights that are NaN or infinite; {REMEDY}")
        return numbers
