"""Requests of many threads, computed together: what arrives while the network computes goes through it as one batch.

There is no thread of its own and no waiting for company: who finds the network idle computes at once, for itself and
for all who came in the meantime.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.serving.network import Network, Sets

MAX_JOINED_SETS: Final = 64
"""Of 30,000 scores each: 8 MB. Larger batches gain little on a CPU, and the first of them would wait for the last."""


class BatchingNetwork:
    """A `Network` that answers several threads by one pass of another one."""

    def __init__(self, network: Network, max_sets: int = MAX_JOINED_SETS) -> None:
        self._network = network
        self._embeddings = _Joined(network.embeddings, max_sets)
        self._tag_scores = _Joined(network.tag_scores, max_sets)

    def embeddings(self, sets: Sets) -> NDArray[np.float32]:
        """The bottleneck of each set, float32 ``[n, E]``."""
        return self._embeddings.rows(sets)

    def tag_scores(self, sets: Sets) -> NDArray[np.float32]:
        """The completion head's logit of every tag, float32 ``[n, num_tags]``."""
        return self._tag_scores.rows(sets)

    def token_states(self, sets: Sets) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """A state for every token, float32 ``[tokens, d]``, and cu_seqlens int32 ``[n + 1]``; not joined."""
        return self._network.token_states(sets)


class _Call:
    """What one thread asks, and what it gets."""

    def __init__(self, sets: Sets) -> None:
        self.sets = sets
        self.rows: NDArray[np.float32] | None = None
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.rows is not None or self.error is not None


class _Joined:
    """`compute`, a row for each set, called by one thread at a time for all that wait."""

    def __init__(self, compute: Callable[[Sets], NDArray[np.float32]], max_sets: int) -> None:
        self._compute = compute
        self._max_sets = max_sets
        self._waiting: list[_Call] = []
        self._list = threading.Lock()
        self._computing = threading.Lock()

    def rows(self, sets: Sets) -> NDArray[np.float32]:
        call = _Call(sets)
        with self._list:
            self._waiting.append(call)
        with self._computing:
            while not call.is_done:
                self._compute_next()
        if call.error is not None:
            raise call.error
        assert call.rows is not None
        return call.rows

    def _compute_next(self) -> None:
        """The longest waiting calls, at least one, together no more than `max_sets` where they can be divided so."""
        with self._list:
            num_sets, stop = len(self._waiting[0].sets.lengths), 1
            while stop < len(self._waiting) and num_sets + len(self._waiting[stop].sets.lengths) <= self._max_sets:
                num_sets += len(self._waiting[stop].sets.lengths)
                stop += 1
            calls, self._waiting = self._waiting[:stop], self._waiting[stop:]
        try:
            rows = self._compute(_joined([call.sets for call in calls]))
        except BaseException as error:  # noqa: BLE001  raised again in every thread that waits for it
            for call in calls:
                call.error = error
            return
        start = 0
        for call in calls:
            call.rows = rows[start : start + len(call.sets.lengths)]
            start += len(call.sets.lengths)


def _joined(sets: Sequence[Sets]) -> Sets:
    if len(sets) == 1:
        return sets[0]
    return Sets(
        np.concatenate([one.tags for one in sets]),
        np.concatenate([one.lengths for one in sets]),
        np.concatenate([one.ratings for one in sets]),
        np.concatenate([one.score_bins for one in sets]),
    )
