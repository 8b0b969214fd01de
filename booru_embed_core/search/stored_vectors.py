"""The vectors of single rows of an index, compared where its lists store them.

faiss reads a vector by its row in 2.2 µs. Here the codes of the rows are gathered and compared as they are, which takes
a twentieth of that.

    list 0: rows 2 5      list 1: rows 0 1 4      list of each row  1 1 0 … 1 0
                                                  place of each row 2 3 0 … 4 1
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import faiss
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rows = NDArray[np.integer[Any]]

_ID_BYTES: Final = 8
_CHUNK_ROWS: Final = 4096
"""Vectors that are gathered at once: they stay in the cache of a core."""
_SAMPLE_STEP: Final = 31
"""Of a mask; a prime, so that it does not follow a period of the rows."""
_SAMPLED_ROWS: Final = 65_536
"""Rows that tell how many of a list are chosen."""


class StoredVectors:
    """The lists and the vectors of the rows of an index; it takes 6 bytes a row.

    Attributes:
        list_of: the list of each row, uint16 ``[N]``, or uint32 for more lists.
        sizes: int64 ``[L]``, the number of rows of each list.
        mean_size: that of the list in which a row is, on average over all rows.
    """

    def __init__(self, index: faiss.IndexIVFScalarQuantizer) -> None:
        lists = index.invlists
        self._index = index  # keeps the memory alive
        self._bytes = int(index.code_size)
        self.sizes = np.array([lists.list_size(number) for number in range(index.nlist)], np.int64)
        self.list_of = np.empty(index.ntotal, np.uint16 if index.nlist <= 1 << 16 else np.uint32)
        self._place_of = np.empty(index.ntotal, np.uint32)
        starts = np.cumsum(self.sizes) - self.sizes
        codes, ids = np.zeros((2, index.nlist), np.int64)
        for number in np.flatnonzero(self.sizes).tolist():
            rows = faiss.rev_swig_ptr(lists.get_ids(number), int(self.sizes[number]))
            self.list_of[rows] = number
            self._place_of[rows] = np.arange(starts[number], starts[number] + len(rows), dtype=np.uint32)
            codes[number], ids[number] = int(lists.get_codes(number)), int(lists.get_ids(number))
        memory, self._codes_at = _memory(codes, self.sizes * self._bytes)
        self._ids, self._ids_at = _memory(ids, self.sizes * _ID_BYTES)
        self._codes = _windows(memory, self._bytes)
        self._shift = self._codes_at - starts * self._bytes
        self.mean_size = float(self.sizes @ self.sizes) / index.ntotal

    def nearest(self, rows: Rows, query: Float32, k: int) -> tuple[NDArray[np.int64], Float32]:
        """The best `k` of `rows`, integers ``[m]``, by inner product with `query`, and the products; best first."""
        starts = self._shift.take(self.list_of.take(rows)) + self._place_of.take(rows) * np.int64(self._bytes)
        return self._compared(rows, starts, query, k)

    def nearest_in_lists(
        self, lists: NDArray[np.int64], chosen: Mask | Rows, query: Float32, k: int
    ) -> tuple[NDArray[np.int64], Float32]:
        """`nearest` of the `chosen` rows of `lists`; `chosen` is bool ``[N]``, or the rows themselves."""
        if not is_mask(chosen):
            is_read = np.zeros(len(self.sizes), np.bool_)
            is_read[lists] = True
            rows = rows_of(chosen)
            return self.nearest(rows[is_read.take(self.list_of.take(rows))], query, k)
        lists = np.sort(lists[self.sizes[lists] > 0])
        ends = np.cumsum(self.sizes[lists])
        first = self._ids_at[lists]
        last = first + self.sizes[lists] * _ID_BYTES
        ids = [self._ids[start:stop] for start, stop in zip(first.tolist(), last.tolist(), strict=True)]
        rows = np.concatenate(ids).view(np.int64)
        kept = np.flatnonzero(chosen.take(rows, mode="clip"))
        num_kept = np.diff(np.searchsorted(kept, ends), prepend=0)
        begin = self._codes_at[lists] - (ends - self.sizes[lists]) * self._bytes
        return self._compared(rows[kept], np.repeat(begin, num_kept) + kept * self._bytes, query, k)

    def _compared(
        self, rows: Rows, starts: NDArray[np.int64], query: Float32, k: int
    ) -> tuple[NDArray[np.int64], Float32]:
        """`nearest` of rows whose codes start at these bytes."""
        found, scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        compared = faiss.IndexScalarQuantizer(len(query), faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        with one_thread():  # a team of threads for a single query costs more than the query
            for start in range(0, len(rows), _CHUNK_ROWS):
                codes = self._codes[starts[start : start + _CHUNK_ROWS]].view(np.uint8).reshape(-1, self._bytes)
                compared.reset()
                compared.add_sa_codes(codes)
                products, best = compared.search(query[None], min(k, len(codes)))
                found.append(rows[start + best[0]].astype(np.int64))
                scores.append(products[0])
        every, every_score = np.concatenate(found), np.concatenate(scores)
        order = np.lexsort((every, -every_score))[:k]
        return every[order], every_score[order]

    def num_of_lists(self, chosen: Mask | Rows, total: int) -> NDArray[np.int64]:
        """About how many rows of each list are `chosen`, int64 ``[L]``; exact for few rows.

        Args:
            chosen: bool ``[N]``, or the rows themselves.
            total: their number.
        """
        step = _SAMPLE_STEP if is_mask(chosen) else max(1, total // _SAMPLED_ROWS)
        rows = rows_of(chosen[::step]) * step if is_mask(chosen) else rows_of(chosen)[::step]
        lists = self.list_of.take(rows)
        return step * np.bincount(lists, minlength=len(self.sizes))


def is_mask(chosen: Mask | Rows) -> bool:
    """Whether rows are chosen by a bool each; else `chosen` has their numbers."""
    return chosen.dtype == np.bool_


def rows_of(chosen: Mask | Rows) -> Rows:
    """The numbers of the rows that are `chosen`."""
    return np.flatnonzero(chosen) if is_mask(chosen) else cast("Rows", chosen)


@contextmanager
def one_thread() -> Iterator[None]:
    """faiss works in one thread where this thread calls it."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _memory(addresses: NDArray[np.int64], num_bytes: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The memory from the lowest to the highest of these areas, uint8, no copy, and where in it each area starts."""
    is_used = num_bytes > 0
    lowest = int(addresses[is_used].min())
    length = int((addresses + num_bytes)[is_used].max()) - lowest
    memory = np.frombuffer(memoryview((ctypes.c_uint8 * length).from_address(lowest)), np.uint8)
    memory.flags.writeable = False
    return memory, addresses - lowest


def _windows(memory: NDArray[np.uint8], width: int) -> NDArray[Any]:
    """The `width` bytes of `memory` from each byte on, void ``[len(memory) - width + 1]``, no copy."""
    first = memory[:width].view(f"V{width}")
    return np.lib.stride_tricks.as_strided(first, (len(memory) - width + 1,), (1,), writeable=False)
