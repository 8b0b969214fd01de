"""A faiss index of unit vectors: inverted lists of float16, of which a query reads the nearest ones.

k-means makes the lists (Jégou, Douze, Schmid 2011, "Product Quantization for Nearest Neighbor Search", section IV,
without its quantization). Lists allow exact filters, since a search can skip single rows, and reading all lists is the
exact search. A graph allows neither; `benchmarks/search.py` compares the two.

A search under a mask reads the nearest lists until it has met enough rows that pass. The fewer rows pass, the farther
lie the nearest of them, and the more lists hold them, but the fewer vectors are to be compared in total.

This module knows vectors and rows; posts belong to ``post_search``.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any, Final, Self, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from booru_embed_core.errors import first_line
from booru_embed_core.search.stored_vectors import Float32, Mask, Rows, StoredVectors, is_mask, one_thread, rows_of

Float16 = NDArray[np.float16]

INDEX_FILE: Final = "index.faiss"
RECALL_K: Final = 10
WANTED_RECALL: Final = 0.97
"""On the queries that the index is tuned on; other queries must reach `MIN_RECALL`."""
MIN_RECALL: Final = 0.95
_LISTS_PER_SQRT_ROW: Final = 4
_MIN_ROWS_PER_LIST: Final = 39
"""As many as faiss recommends."""
_TRAINING_ROWS_PER_LIST: Final = 64
_ITERATIONS: Final = 10
"""Of k-means."""
_SEED: Final = 7
_CHUNK_ROWS: Final = 65_536
_EXACT_ROWS: Final = 32_768
"""Rows that a search compares all, without the lists."""
_EXPONENT: Final = 0.65
"""Of the share of the rows that pass, to which the number of compared vectors is proportional.

At 5.8 million rows it gives the wanted recall with masks of a hundredth to half of all rows, wherever they lie to the
query (`full_scale`, ``search``).
"""
_READ_SECONDS: Final = 1e-7
"""Of comparing one row where it is stored, measured at 5.8 million rows, like the next three."""
_SCAN_SECONDS: Final = 1.6e-8
"""Of comparing one row while faiss scans its list."""
_ASK_SECONDS: Final = 8e-9
"""Of asking of one row in a list whether it passes."""
_LIST_SECONDS: Final = 2e-8
"""Of listing one row of a mask, and finding its list; that of a row that does not pass takes a hundredth."""
_SPARE: Final = 3
"""How many times as many rows faiss finds as will pass by the share of the lists that it scans."""
_MAX_FOUND: Final = 4096

_REMEDY: Final = "rebuild it with `booru-embed index`"


class SearchError(ValueError):
    """Posts cannot be searched; the one-line message names the file or value, the problem and the remedy."""


class VectorIndex:
    """Finds rows by the inner product of their vectors with a query, among all rows or those of a mask.

    Attributes:
        num_rows: vectors in the index; row i is the i-th vector that was added.
        dim: length of a vector.
        num_lists: number of inverted lists.
        nprobe: lists that a query reads when every row passes.
    """

    def __init__(self, index: faiss.IndexIVFScalarQuantizer, nprobe: int) -> None:
        self._index = index
        self.nprobe = nprobe
        self.num_rows = int(index.ntotal)
        self.dim = int(index.d)
        self.num_lists = int(index.nlist)
        self._stored: StoredVectors | None = None
        self._lock = threading.Lock()

    @property
    def kind(self) -> str:
        """The version of faiss and its name for this kind of index."""
        return f"faiss {faiss.__version__} IVF{self.num_lists},SQfp16"

    @classmethod
    def build(cls, vectors: Float16) -> Self:
        """The index of `vectors`, float16 ``[N, dim]`` of unit length, N > 0; it reads one list per query until tuned.

        It holds all vectors in memory. `write_index` (``index_file``) writes the same index from blocks.
        """
        index = empty_index(trained_lists(vectors[sampled_rows(len(vectors))].astype(np.float32), len(vectors)))
        for start in range(0, len(vectors), _CHUNK_ROWS):
            index.add(vectors[start : start + _CHUNK_ROWS].astype(np.float32))
        return cls(index, 1)

    @classmethod
    def open(cls, file: Path, nprobe: int, shape: tuple[int, int] | None = None) -> Self:
        """The index saved as `file`, with mmapped vectors; a query reads `nprobe` lists.

        Args:
            file: what `save` wrote.
            nprobe: lists that a query reads; more than it has are all.
            shape: the number of vectors that it must have, and their length.

        Raises:
            SearchError: the file is missing or is not such an index.
        """
        try:
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
        except (RuntimeError, MemoryError, OverflowError) as error:
            reason = first_line(str(error).rpartition("Error: ")[2] or error)
            raise SearchError(f"{file}: not an index ({reason}); {_REMEDY}") from None
        if not isinstance(index, faiss.IndexIVFScalarQuantizer) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise SearchError(f"{file}: another kind of index ({type(index).__name__}); {_REMEDY}")
        found = (int(index.ntotal), int(index.d))
        if shape is not None and found != shape:
            raise SearchError(f"{file}: has {found[0]:,} vectors of {found[1]:,} numbers, not {shape}; {_REMEDY}")
        return cls(index, min(nprobe, int(index.nlist)))

    def save(self, file: Path) -> None:
        """Writes the index to `file`."""
        faiss.write_index(self._index, str(file))

    def tune(self, queries: Float32) -> float:
        """Sets `nprobe` to the fewest lists that give `queries`, ``[Q, dim]``, `WANTED_RECALL`; returns that recall@10.

        Reading all lists gives a recall of 1.
        """
        exact = self._find(queries, min(RECALL_K, self.num_rows), self.num_lists)[1]
        self.nprobe, recall = fewest_lists(self._centroids(), queries, self._stored_vectors().list_of[exact])
        return recall

    def recall(self, queries: Float32) -> float:
        """The share of the ten best rows of each of `queries`, float32 ``[Q, dim]``, that `search` finds."""
        k = min(RECALL_K, self.num_rows)
        exact = self._find(queries, k, self.num_lists)[1]
        return index_recall(self._find(queries, k, self.nprobe)[1], exact)

    def search(self, query: Float32, k: int, passing: Mask | Rows | None = None) -> tuple[NDArray[np.int64], Float32]:
        """The best rows by inner product with `query`, int64 ``[n]``, and the products, float32 ``[n]``; best first.

        n is `k`, or the number of rows that pass if that is lower. Up to `_EXACT_ROWS` rows are all compared. Of more,
        those in the nearest lists are, at least `nprobe` lists.

        Args:
            query: float32 ``[dim]``.
            k: maximal number of rows.
            passing: the rows to choose from, bool ``[N]`` or different row numbers, ascending; None allows all.
        """
        if passing is None:
            num_passing = self.num_rows
        else:
            num_passing = int(np.count_nonzero(passing)) if is_mask(passing) else len(passing)
        k = min(k, num_passing)
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if passing is None:
            rows, scores = self._scanned(query, k, self.nprobe)
            return (rows, scores) if len(rows) == k else self._scanned(query, k, self.num_lists)
        if num_passing > _EXACT_ROWS:
            rows, scores = self._nearby(query, k, passing, num_passing)
            if len(rows) == k:
                return rows, scores
        return self._stored_vectors().nearest(rows_of(passing), query, k)

    def _nearby(
        self, query: Float32, k: int, passing: Mask | Rows, num_passing: int
    ) -> tuple[NDArray[np.int64], Float32]:
        """`search` in the nearest lists, which may hold fewer than `k` rows that pass."""
        stored, share = self._stored_vectors(), num_passing / self.num_rows
        order = np.argsort(-(self._centroids() @ query))
        num_met = np.cumsum(stored.num_of_lists(passing, num_passing)[order])
        wanted = self.nprobe * stored.mean_size * share**_EXPONENT
        last = min(max(int(np.searchsorted(num_met, wanted)), self.nprobe - 1), self.num_lists - 1)
        nearest = order[: last + 1]
        num_compared, num_read = int(num_met[last]), int(stored.sizes[nearest].sum())
        num_found = _SPARE * -(-k * num_read // max(1, num_compared))
        if num_found <= _MAX_FOUND and _is_dense(num_compared, num_read):
            found = self._scanned(query, num_found, last + 1)
            passes = _pass(passing, found[0])
            if np.count_nonzero(passes) >= k:
                return found[0][passes][:k], found[1][passes][:k]
        if is_mask(passing) and _is_listed(num_passing, self.num_rows, num_read):
            passing = np.flatnonzero(passing)
        return stored.nearest_in_lists(nearest, passing, query, k)

    def _stored_vectors(self) -> StoredVectors:
        """Where the rows are; an index that no filter searches does without."""
        with self._lock:
            if self._stored is None:
                self._stored = StoredVectors(self._index)
            return self._stored

    def _centroids(self) -> Float32:
        """Those of the lists, float32 ``[L, dim]``."""
        quantizer = faiss.downcast_index(self._index.quantizer)
        centroids: Float32 = faiss.rev_swig_ptr(quantizer.get_xb(), self.num_lists * self.dim)
        return centroids.reshape(self.num_lists, self.dim)

    def _scanned(self, query: Float32, k: int, nprobe: int) -> tuple[NDArray[np.int64], Float32]:
        """The best rows of `nprobe` lists; fewer than `k` where these have fewer."""
        scores, rows = self._find(query[None], k, nprobe)
        found = rows[0] >= 0
        rows, scores = rows[0][found], scores[0][found]
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def within(self, queries: Float32, above: float, nprobe: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The indices of pairs of a query and a row whose inner product exceeds `above`, int64 ``[n]`` each.

        Args:
            queries: float32 ``[Q, dim]``.
            above: threshold of the inner products.
            nprobe: lists that each query is compared with.
        """
        parameters = faiss.SearchParametersIVF(nprobe=min(nprobe, self.num_lists))
        limits, _, rows = self._index.range_search(queries, above, params=parameters)
        return np.repeat(np.arange(len(queries)), np.diff(limits).astype(np.int64)), rows

    def _find(self, queries: Float32, k: int, nprobe: int) -> tuple[Float32, NDArray[np.int64]]:
        parameters = faiss.SearchParametersIVF(nprobe=nprobe)
        scores, rows = self._index.search(np.ascontiguousarray(queries), k, params=parameters)
        return scores, rows


def _pass(passing: Mask | Rows, rows: Rows) -> Mask:
    """Which of `rows` pass, bool ``[n]``."""
    if is_mask(passing):
        return cast("Mask", passing.take(rows))
    return np.asarray(passing.take(np.searchsorted(passing, rows), mode="clip") == rows)


def _is_dense(num_compared: int, num_read: int) -> bool:
    """Whether comparing all rows of lists takes less time than asking which of them pass and comparing these."""
    return num_read * _SCAN_SECONDS < num_read * _ASK_SECONDS + num_compared * _READ_SECONDS


def _is_listed(num_passing: int, num_rows: int, num_read: int) -> bool:
    """Whether listing all rows that pass takes less time than asking all rows of the lists that are read."""
    return (num_passing + 0.01 * num_rows) * _LIST_SECONDS < num_read * _ASK_SECONDS


def fewest_lists(centroids: Float32, queries: Float32, wanted: NDArray[np.integer[Any]]) -> tuple[int, float]:
    """The lowest number of lists with which queries find `WANTED_RECALL` of their neighbours, and what they find.

    Args:
        centroids: float32 ``[L, dim]``.
        queries: float32 ``[Q, dim]``.
        wanted: integers ``[Q, k]``, the lists that hold the neighbours of each query.
    """
    order = np.argsort(-(queries @ centroids.T), axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(centroids))[None], axis=1)
    of_neighbours = np.sort(np.take_along_axis(ranks, wanted.astype(np.int64), axis=1), axis=None)
    nprobe = 1 + int(of_neighbours[math.ceil(WANTED_RECALL * of_neighbours.size) - 1])
    return nprobe, float(np.mean(of_neighbours < nprobe))


def index_recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """The share of the rows in `exact` ``[Q, k]`` that `found` ``[Q, k]`` contains, query by query; -1 means no row."""
    hits = sum(len(np.intersect1d(a, b[b >= 0])) for a, b in zip(found, exact, strict=True))
    return hits / max(1, int(np.count_nonzero(exact >= 0)))


def sampled_rows(num_rows: int) -> NDArray[np.int64]:
    """The rows that the lists of `num_rows` vectors are trained on, int64 ``[n]``, ascending."""
    num_sampled = min(num_rows, _num_lists(num_rows) * _TRAINING_ROWS_PER_LIST)
    return np.sort(np.random.default_rng(_SEED).permutation(num_rows)[:num_sampled])


def trained_lists(sample: Float32, num_rows: int) -> Float32:
    """The centroids of the lists of `num_rows` vectors, float32 ``[L, dim]``, trained on their `sampled_rows`.

    k-means in two levels: about √L clusters, each of which is clustered into its share of the lists. It takes a tenth
    of the time of L clusters at once, and its lists are of more equal size, so that a query finds as much among as many
    vectors.
    """
    num_lists = _num_lists(num_rows)
    with one_thread():  # the same centroids for any number of threads
        num_clusters = int(num_lists**0.5)
        clusters = _clustered(sample, num_clusters)
        quantizer = faiss.IndexFlatIP(sample.shape[1])
        quantizer.add(clusters)
        cluster_of = quantizer.search(sample, 1)[1][:, 0]
        ends = np.cumsum(np.bincount(cluster_of, minlength=num_clusters))
        shares = np.diff(ends * num_lists // len(sample), prepend=0)
        members = np.split(np.argsort(cluster_of, kind="stable"), ends[:-1])
        return np.concatenate(
            [_clustered(sample[rows], int(share)) for rows, share in zip(members, shares, strict=True) if share]
        )


def _clustered(vectors: Float32, num_clusters: int) -> Float32:
    """`num_clusters` centroids of unit length of `vectors` ``[n, dim]``, of which there are at least as many."""
    kmeans = faiss.Kmeans(
        vectors.shape[1], num_clusters, niter=_ITERATIONS, spherical=True, seed=_SEED, min_points_per_centroid=1
    )
    kmeans.train(np.ascontiguousarray(vectors))
    centroids: Float32 = kmeans.centroids
    return centroids


def empty_index(centroids: Float32) -> faiss.IndexIVFScalarQuantizer:
    """An index with the lists of `centroids`, float32 ``[L, dim]``, without rows."""
    num_lists, dim = centroids.shape
    index = faiss.index_factory(dim, f"IVF{num_lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.by_residual = False  # the codes are then the vectors themselves, and scores are exact
    index.quantizer.add(centroids)
    index.train(centroids)  # neither the lists nor float16 need training; it marks the index as trained
    return index


def _num_lists(num_rows: int) -> int:
    return max(1, min(int(_LISTS_PER_SQRT_ROW * num_rows**0.5), num_rows // _MIN_ROWS_PER_LIST))
