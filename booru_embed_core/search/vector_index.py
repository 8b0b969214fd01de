"""A faiss index of unit vectors: inverted lists of float16, of which a query reads the nearest ones.

k-means makes the lists (Jégou, Douze, Schmid 2011, "Product Quantization for Nearest Neighbor Search", section IV,
without its quantization). Lists allow exact filters, since a search can skip single rows, and reading all lists is the
exact search. A graph allows neither; `benchmarks/search.py` compares the two.

This module knows vectors and rows; posts belong to ``post_search``.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from booru_embed_core.errors import first_line

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]

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
_READ_SECONDS: Final = 2.2e-6
"""Of reading one vector by its row, measured at 5.8 million rows."""
_SKIP_SECONDS: Final = 1.5e-8
"""Of asking of one row in a list whether it passes, measured likewise."""


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
        with self._lock:
            self._index.set_direct_map_type(faiss.DirectMap.NoMap)
        faiss.write_index(self._index, str(file))

    def tune(self, queries: Float32) -> float:
        """Doubles `nprobe` until the recall@10 of `queries`, float32 ``[Q, dim]``, reaches `WANTED_RECALL`; returns it.

        Reading all lists gives a recall of 1.
        """
        k = min(RECALL_K, self.num_rows)
        exact = self._find(queries, k, self.num_lists, None)[1]
        self.nprobe = 1
        while (recall := index_recall(self._find(queries, k, self.nprobe, None)[1], exact)) < WANTED_RECALL:
            if self.nprobe == self.num_lists:
                break
            self.nprobe = min(2 * self.nprobe, self.num_lists)
        return recall

    def recall(self, queries: Float32) -> float:
        """The share of the ten best rows of each of `queries`, float32 ``[Q, dim]``, that `search` finds."""
        k = min(RECALL_K, self.num_rows)
        exact = self._find(queries, k, self.num_lists, None)[1]
        return index_recall(self._find(queries, k, self.nprobe, None)[1], exact)

    def search(
        self, query: Float32, k: int, passing: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], Float32]:
        """The best rows by inner product with `query`, int64 ``[n]``, and the products, float32 ``[n]``; best first.

        n is `k`, or the number of rows that pass if that is lower. The fewer rows pass, the more lists are read, so
        that the number of compared vectors stays about the same; few rows are compared all, without the lists.

        Args:
            query: float32 ``[dim]``.
            k: maximal number of rows.
            passing: bool ``[N]``, the rows to choose from; None allows all.
        """
        num_passing = self.num_rows if passing is None else int(np.count_nonzero(passing))
        k = min(k, num_passing)
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        nprobe = min(self.num_lists, -(-self.nprobe * self.num_rows // num_passing))
        if passing is not None and _is_few(num_passing, self.num_rows * nprobe / self.num_lists):
            return self._nearest_of(np.flatnonzero(passing), query, k)
        scores, rows = self._find(query[None], k, nprobe, passing)
        if rows[0, -1] < 0:  # these lists hold fewer than k rows that pass
            scores, rows = self._find(query[None], k, self.num_lists, passing)
        order = np.lexsort((rows[0], -scores[0]))
        return rows[0][order], scores[0][order]

    def _nearest_of(self, rows: NDArray[np.int64], query: Float32, k: int) -> tuple[NDArray[np.int64], Float32]:
        """`search` among `rows`, int64 ``[m]``, by reading their vectors."""
        with self._lock:
            # 8 bytes a row, which an index that no filter searches does without; a second call does nothing.
            self._index.make_direct_map()
        scores = self._index.reconstruct_batch(rows) @ query
        best = np.lexsort((rows, -scores))[:k]
        return rows[best], scores[best]

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

    def _find(
        self, queries: Float32, k: int, nprobe: int, passing: NDArray[np.bool_] | None
    ) -> tuple[Float32, NDArray[np.int64]]:
        bits = None if passing is None else np.packbits(passing, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=nprobe)
        scores, rows = self._index.search(np.ascontiguousarray(queries), k, params=parameters)
        return scores, rows


def _is_few(num_passing: int, num_looked_at: float) -> bool:
    """Whether reading the vectors of all rows that pass takes less time than skipping those that do not in lists."""
    return num_passing * _READ_SECONDS < num_looked_at * _SKIP_SECONDS


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
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # the same centroids for any number of threads
    try:
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
    finally:
        faiss.omp_set_num_threads(threads)


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
