"""An index of unit vectors by faiss: inverted lists of float16, of which a query reads the nearest ones.

Lists by k-means (Jégou, Douze, Schmid 2011, "Product Quantization for Nearest Neighbor Search", section IV, without its
quantization) and no graph: a filter is then exact, since the lists hold rows that can be passed over one by one, and
reading all lists is the exact search. `benchmarks/search.py` compares it with graphs.

What belongs here: vectors and rows. Not posts, which are `search`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import faiss
import numpy as np
from numpy.typing import NDArray

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]

INDEX_FILE: Final = "index.faiss"
RECALL_K: Final = 10
WANTED_RECALL: Final = 0.97
"""Of the queries that the index is tuned on; .95 is asked of others."""
LEAST_RECALL: Final = 0.95
_LISTS_PER_ROOT: Final = 4
_LEAST_ROWS_OF_LIST: Final = 39
"""faiss warns of fewer."""
_TRAINING_ROWS_OF_LIST: Final = 64
_SEED: Final = 7
_CHUNK_ROWS: Final = 65_536


class SearchError(ValueError):
    """Posts cannot be searched; the message names the file or the value, what is wrong and the remedy in one line."""


class VectorIndex:
    """Rows by their vectors: the best ones by inner product, of all or of those that a mask lets pass.

    Attributes:
        num_rows: vectors in the index; row i is the i-th that was added.
        dim: numbers of a vector.
        num_lists: inverted lists.
        probes: lists that a query reads where every row passes.
    """

    def __init__(self, index: faiss.IndexIVFScalarQuantizer, probes: int) -> None:
        self._index = index
        self.probes = probes
        self.num_rows = int(index.ntotal)
        self.dim = int(index.d)
        self.num_lists = int(index.nlist)

    @property
    def kind(self) -> str:
        """What it is, in faiss' words, and faiss' version."""
        return f"faiss {faiss.__version__} IVF{self.num_lists},SQfp16"

    @classmethod
    def build(cls, vectors: Float16) -> Self:
        """The index of `vectors`, float16 ``[N, dim]`` of unit length, N > 0.

        It reads one list a query until it is tuned. The same vectors give the same index, where the number of threads
        is the same.
        """
        num_rows, dim = vectors.shape
        num_lists = max(1, min(int(_LISTS_PER_ROOT * num_rows**0.5), num_rows // _LEAST_ROWS_OF_LIST))
        index = faiss.index_factory(dim, f"IVF{num_lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.by_residual = False  # the codes are then the vectors as they came, and scores lose nothing
        num_sampled = min(num_rows, num_lists * _TRAINING_ROWS_OF_LIST)
        sampled = np.sort(np.random.default_rng(_SEED).permutation(num_rows)[:num_sampled])
        index.train(vectors[sampled].astype(np.float32))
        for start in range(0, num_rows, _CHUNK_ROWS):
            index.add(vectors[start : start + _CHUNK_ROWS].astype(np.float32))
        return cls(index, 1)

    @classmethod
    def open(cls, file: Path, probes: int) -> Self:
        """The index that was saved as `file`, its vectors mmapped, reading `probes` lists a query.

        Raises:
            SearchError: no such file, or no index.
        """
        try:
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            reason = str(error).rpartition("Error: ")[2]
            raise SearchError(f"{file}: not an index ({reason}); make it again with `booru-embed index`") from None
        return cls(index, probes)

    def save(self, file: Path) -> None:
        """Writes the index to `file`."""
        faiss.write_index(self._index, str(file))

    def tune(self, queries: Float32) -> float:
        """The recall@10 that `queries` (float32 ``[Q, dim]``) reach with as few probes as give `WANTED_RECALL`.

        Probes double until they do; with all lists the recall is 1.
        """
        self.probes = 1
        while (recall := self.recall(queries)) < WANTED_RECALL and self.probes < self.num_lists:
            self.probes = min(2 * self.probes, self.num_lists)
        return recall

    def recall(self, queries: Float32) -> float:
        """The share of the ten best rows of each of `queries`, float32 ``[Q, dim]``, that a search finds."""
        k = min(RECALL_K, self.num_rows)
        exact = self._find(queries, k, self.num_lists, None)[1]
        return index_recall(self._find(queries, k, self.probes, None)[1], exact)

    def search(
        self, query: Float32, k: int, passing: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], Float32]:
        """The best rows by inner product with `query`, int64 ``[n]``, and that product, float32 ``[n]``; best first.

        n is `k`, or as many as pass. The fewer pass, the more lists are read, so that as many vectors are compared; few
        are searched exactly.

        Args:
            query: float32 ``[dim]``.
            k: how many.
            passing: bool ``[N]``, the rows to choose from; None is all.
        """
        num_passing = self.num_rows if passing is None else int(np.count_nonzero(passing))
        k = min(k, num_passing)
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        probes = min(self.num_lists, -(-self.probes * self.num_rows // num_passing))
        scores, rows = self._find(query[None], k, probes, passing)
        if rows[0, -1] < 0:  # these lists hold fewer than k that pass
            scores, rows = self._find(query[None], k, self.num_lists, passing)
        order = np.lexsort((rows[0], -scores[0]))
        return rows[0][order], scores[0][order]

    def within(self, queries: Float32, least: float, probes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of a query and a row whose inner product is above `least`: their places, int64 ``[n]`` each.

        Args:
            queries: float32 ``[Q, dim]``.
            least: of the inner products.
            probes: lists that each query is compared with.
        """
        parameters = faiss.SearchParametersIVF(nprobe=min(probes, self.num_lists))
        limits, _, rows = self._index.range_search(queries, least, params=parameters)
        return np.repeat(np.arange(len(queries)), np.diff(limits).astype(np.int64)), rows

    def _find(
        self, queries: Float32, k: int, probes: int, passing: NDArray[np.bool_] | None
    ) -> tuple[Float32, NDArray[np.int64]]:
        bits = None if passing is None else np.packbits(passing, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        scores, rows = self._index.search(np.ascontiguousarray(queries), k, params=parameters)
        return scores, rows


def index_recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """The share of the rows `exact` ``[Q, k]`` that are among `found` ``[Q, k]``; -1 stands for no row."""
    hits = sum(len(np.intersect1d(a, b[b >= 0])) for a, b in zip(found, exact, strict=True))
    return hits / max(1, int(np.count_nonzero(exact >= 0)))
