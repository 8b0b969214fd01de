"""Writes the file that `VectorIndex.open` reads from blocks of vectors: a vector takes 20 bytes of memory.

Three passes over the blocks: a sample trains the lists; then each row gets its list, and the exact neighbours of the
queries are found; then the lists are written one after another. So the number of lists that a query has to read is
known without searching the index: its neighbours are found where their lists are among those that it reads.

    queries' neighbours    in the lists nearest to the query, counted from 0    found with nprobe 2
    7 1 4                  0 1 5                                                7 1, recall .67

The bytes are those that faiss writes for the same lists, whatever the number of threads: each block is one task, and
faiss works in one thread within it. Centroids and the lists of a block are parts, which an interruption leaves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from booru_embed_core.search.stored_vectors import Float32, one_thread
from booru_embed_core.search.vector_index import (
    RECALL_K,
    Float16,
    VectorIndex,
    empty_index,
    fewest_lists,
    sampled_rows,
    trained_lists,
)
from booru_embed_core.training.parts import Arrays, Parts

Blocks = Callable[[], Iterator[Float16]]
"""Goes through all vectors, float16 ``[n, dim]`` of unit length, in the order of their rows."""

_LISTS: Final = "lists"
"""The parts of the blocks."""
_MAX_THREADS: Final = 4
_GROUP_BYTES: Final = 1 << 28
"""Vectors that are put in the order of their lists at once. Each group reads all blocks again."""
_NO_LISTS: Final = b"sprs" + bytes(8)
"""What faiss writes at the end of an index without rows: a sparse table of sizes, which is empty."""


def write_index(
    file: Path, num_rows: int, blocks: Blocks, queries: Float32, parts: Parts | None = None, num_blocks: int = 0
) -> tuple[VectorIndex, float]:
    """Writes the index of `blocks` to `file`; returns it, opened, and its recall@10 on `queries`.

    Its `nprobe` is the lowest that reaches `WANTED_RECALL`. With several ranks, the others call
    `help_to_write`; the bytes are the same.

    Args:
        file: is overwritten.
        num_rows: vectors in `blocks`, above 0.
        blocks: all vectors; it is called several times.
        queries: float32 ``[Q, dim]``, of unit length.
        parts: keep what is finished; their source names the vectors.
        num_blocks: how many there are; needed with several ranks.
    """
    parts = parts or Parts()
    centroids = _trained(num_rows, blocks, parts)
    lists, neighbours = _assigned(num_rows, blocks, centroids, queries, parts, num_blocks)
    nprobe, recall = fewest_lists(centroids, queries, lists[neighbours])
    _write(file, blocks, centroids, lists)
    return VectorIndex.open(file, nprobe, (num_rows, centroids.shape[1])), recall


def help_to_write(num_rows: int, blocks: Blocks, queries: Float32, parts: Parts, num_blocks: int) -> None:
    """Does this rank's share of the work of `write_index`, which the first of `ranks` calls with the same arguments."""
    _assigned(num_rows, blocks, _trained(num_rows, blocks, parts), queries, parts, num_blocks)


def _trained(num_rows: int, blocks: Blocks, parts: Parts) -> Float32:
    """The centroids, trained by one of the ranks."""

    def compute(_: int) -> Arrays:
        return {"centroids": trained_lists(_sample(num_rows, blocks), num_rows)}

    centroids: Float32 = parts.each("centroids", 1, compute)[0]["centroids"]
    return centroids


def _sample(num_rows: int, blocks: Blocks) -> Float32:
    """The vectors that the lists are trained on, float32 ``[n, dim]``."""
    rows = sampled_rows(num_rows)
    found, start, filled = None, 0, 0
    for block in blocks():
        first, last = np.searchsorted(rows, (start, start + len(block)))
        if found is None:
            found = np.empty((len(rows), block.shape[1]), np.float32)
        found[first:last] = block[rows[first:last] - start]
        start, filled = start + len(block), last
    assert found is not None, "there are blocks"
    assert (start, filled) == (num_rows, len(rows)), "the blocks hold num_rows vectors"
    return found


def _assigned(
    num_rows: int, blocks: Blocks, centroids: Float32, queries: Float32, parts: Parts, num_blocks: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The list of each row, int32 ``[N]``, and the rows nearest to each query, int64 ``[Q, k]``."""
    quantizer = faiss.IndexFlatIP(centroids.shape[1])
    quantizer.add(centroids)
    k = min(RECALL_K, num_rows)

    def task(block: Float16) -> Arrays:
        """The list of each row, and for each query the best scores and their rows."""
        vectors = block.astype(np.float32)
        exact = faiss.IndexFlatIP(vectors.shape[1])
        exact.add(vectors)
        scores, rows = exact.search(queries, min(k, len(vectors)))
        return {"lists": quantizer.search(vectors, 1)[1][:, 0].astype(np.int32), "scores": scores, "rows": rows}

    lists, nearest = np.empty(num_rows, np.int32), faiss.ResultHeap(len(queries), k, keep_max=True)
    of_lists = parts.of(centroids.tobytes(), queries.tobytes())
    is_alone = parts.ranks.num_ranks == 1
    found = _by_threads(task, blocks, of_lists) if is_alone else _by_ranks(task, blocks, of_lists, num_blocks)
    start = 0
    for of_block in found:
        stop = start + len(of_block["lists"])
        lists[start:stop] = of_block["lists"]
        nearest.add_result(of_block["scores"], of_block["rows"] + start)
        start = stop
    nearest.finalize()
    return lists, nearest.I


def _by_threads(task: Callable[[Float16], Arrays], blocks: Blocks, parts: Parts) -> Iterator[Arrays]:
    def part(numbered: tuple[int, Float16]) -> Arrays:
        number, block = numbered
        return parts.part(f"{_LISTS}-{number:05}", partial(task, block))

    num_threads = min(_MAX_THREADS, _num_cores())
    with ThreadPoolExecutor(num_threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        left = enumerate(blocks())
        while window := list(islice(left, num_threads)):
            yield from pool.map(part, window)


def _num_cores() -> int:
    """The cores that this process may use, where the system tells; else all of them."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _by_ranks(task: Callable[[Float16], Arrays], blocks: Blocks, parts: Parts, num_blocks: int) -> list[Arrays]:
    """The results of all blocks. Each rank goes once through the blocks, past those that others take."""
    left, passed = blocks(), 0

    def compute(number: int) -> Arrays:
        nonlocal passed
        block = next(islice(left, number - passed, None))
        passed = number + 1
        return task(block)

    with one_thread():
        return parts.each(_LISTS, num_blocks, compute)


def _write(file: Path, blocks: Blocks, centroids: Float32, lists: NDArray[np.int32]) -> None:
    """Writes what `VectorIndex.save` would: the header of faiss, the sizes of the lists, then vectors and rows of each.

    Args:
        file: is overwritten.
        blocks: all vectors.
        centroids: float32 ``[L, dim]``.
        lists: int32 ``[N]``, the list of each row.
    """
    num_lists, dim = centroids.shape
    sizes = np.bincount(lists, minlength=num_lists)
    ends = np.cumsum(sizes)
    rows = np.argsort(lists, kind="stable")
    place_of = np.empty_like(rows)
    place_of[rows] = np.arange(len(rows))
    header = empty_index(centroids)
    header.ntotal = len(lists)
    content = faiss.serialize_index(header).tobytes()
    assert content.endswith(_NO_LISTS), f"faiss {faiss.__version__} writes another format of lists"
    with file.open("wb") as stream:
        stream.write(content.removesuffix(_NO_LISTS) + b"full" + np.uint64(num_lists).tobytes())
        stream.write(sizes.astype(np.uint64).tobytes())
        for first, last in _groups(sizes, max(1, _GROUP_BYTES // (2 * dim))):
            begin, end = int(ends[first] - sizes[first]), int(ends[last - 1])
            vectors = _gathered(blocks, place_of, begin, end, dim)
            for one in range(first, last):
                of_list = slice(int(ends[one] - sizes[one]), int(ends[one]))
                stream.write(vectors[of_list.start - begin : of_list.stop - begin].tobytes())
                stream.write(rows[of_list].astype(np.int64).tobytes())


def _groups(sizes: NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """First list and end of each run of lists that hold at most `limit` rows, or are one list."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        before = int(ends[first] - sizes[first])
        last = max(first + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield first, last
        first = last


def _gathered(blocks: Blocks, place_of: NDArray[np.int64], begin: int, end: int, dim: int) -> Float16:
    """The vectors whose place lies from `begin` to `end`, in the order of their places, float16 ``[n, dim]``."""
    found, start = np.empty((end - begin, dim), np.float16), 0
    for block in blocks():
        places = place_of[start : start + len(block)] - begin
        here = np.flatnonzero((places >= 0) & (places < end - begin))
        found[places[here]] = block[here]
        start += len(block)
    return found
