"""Compares indexes of posts: build time, size, and the speed and recall of a query.

It compares `VectorIndex` (inverted lists) with graphs by faiss and usearch and with exact search, all in float16 on one
thread. The vectors are generated (`_post_vectors.py`). Each index is tuned on separate queries: the number of probed
lists, or the breadth of a graph's search, doubles until recall@10 reaches .97. Recall is then measured on other
queries: captions of 1 to 4 tags, which lie between the posts, whole posts, and captions among rows that pass a random
filter. An index without filters is queried for more rows until enough of them pass. Seconds are CPU seconds.

``BOORU_EMBED_POSTS`` is the number of posts (1,000,000).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._post_vectors import Float32, Generated, generate
from benchmarks._results import BOORU_EMBED, display_name, write
from booru_embed_core.search.vector_index import WANTED_RECALL, Float16, VectorIndex, index_recall

K: Final = 10
NUM_QUERIES: Final = 256
SHARES: Final = (0.1, 0.01)
"""Shares of the rows that pass a filter."""
CHUNK: Final = 100_000
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_] | None


class Way(ABC):
    """An index, built from all vectors and queried one query at a time."""

    breadths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048)
    """The breadths to try, in ascending order."""

    @abstractmethod
    def build(self, vectors: Float16) -> None:
        """Builds the index of `vectors`."""

    @abstractmethod
    def save(self, file: Path) -> None:
        """Writes the index to `file`."""

    @abstractmethod
    def search(self, query: Float32, k: int, breadth: int, passing: Mask) -> Rows:
        """The best rows, at most `k`."""


class Lists(Way):
    """`VectorIndex`."""

    breadths = tuple(2**i for i in range(13))

    def build(self, vectors: Float16) -> None:
        self.index = VectorIndex.build(vectors)

    def save(self, file: Path) -> None:
        self.index.save(file)

    def search(self, query: Float32, k: int, breadth: int, passing: Mask) -> Rows:
        self.index.nprobe = min(breadth, self.index.num_lists)
        return self.index.search(query, k, passing)[0]


class Flat(Way):
    """Exact search by faiss."""

    breadths = (1,)
    factory = "SQfp16"

    def build(self, vectors: Float16) -> None:
        self.index = faiss.index_factory(vectors.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        self.index.train(vectors[:CHUNK].astype(np.float32))
        for start in range(0, len(vectors), CHUNK):
            self.index.add(vectors[start : start + CHUNK].astype(np.float32))

    def save(self, file: Path) -> None:
        faiss.write_index(self.index, str(file))

    def parameters(self, _breadth: int, selector: Any) -> Any:
        """The search parameters of faiss."""
        return faiss.SearchParameters(sel=selector)

    def search(self, query: Float32, k: int, breadth: int, passing: Mask) -> Rows:
        bits = None if passing is None else np.packbits(passing, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        found: Rows = self.index.search(query[None], k, params=self.parameters(breadth, selector))[1][0]
        return found


class Graph(Flat):
    """HNSW by faiss, with 32 links and a construction breadth of 100."""

    breadths = Way.breadths
    factory = "HNSW32_SQfp16"

    def build(self, vectors: Float16) -> None:
        self.index = faiss.index_factory(vectors.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = 100
        self.index.train(vectors[:CHUNK].astype(np.float32))
        for start in range(0, len(vectors), CHUNK):
            self.index.add(vectors[start : start + CHUNK].astype(np.float32))

    def parameters(self, _breadth: int, selector: Any) -> Any:
        return faiss.SearchParametersHNSW(sel=selector, efSearch=_breadth)


class Usearch(Way):
    """HNSW by usearch with its defaults: 16 links, a construction breadth of 128."""

    def build(self, vectors: Float16) -> None:
        from usearch.index import Index, MetricKind

        self.index = Index(ndim=vectors.shape[1], metric=MetricKind.IP, dtype="f16")
        for start in range(0, len(vectors), CHUNK):
            chunk = vectors[start : start + CHUNK]
            self.index.add(np.arange(start, start + len(chunk)), chunk, threads=1)

    def save(self, file: Path) -> None:
        self.index.save(str(file))

    def search(self, query: Float32, k: int, breadth: int, passing: Mask) -> Rows:
        self.index.expansion_search = breadth
        if passing is None:
            return np.asarray(self.index.search(query, k, threads=1).keys, np.int64)
        wanted = int(k / passing.mean())
        while True:
            rows = np.asarray(self.index.search(query, wanted, threads=1).keys, np.int64)
            rows = rows[passing[rows]]
            if len(rows) >= k or wanted >= len(passing):
                return rows[:k]
            wanted = min(2 * wanted, len(passing))


WAYS: Final[dict[str, Callable[[], Way]]] = {
    "exact, faiss": Flat,
    f"inverted lists, faiss: {BOORU_EMBED}": Lists,
    "graph, faiss": Graph,
    "graph, usearch": Usearch,
}


def best_rows(vectors: Float16, queries: Float32, passing: Mask = None) -> Rows:
    """The nearest rows of each query, int64 ``[Q, K]``, by brute force over the rows that pass."""
    scores = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), CHUNK):
        found = queries @ vectors[start : start + CHUNK].astype(np.float32).T
        if passing is not None:
            found[:, ~passing[start : start + CHUNK]] = -np.inf
        here = np.argpartition(-found, K, axis=1)[:, :K]
        scores = np.hstack([scores, np.take_along_axis(found, here, 1)])
        rows = np.hstack([rows, here + start])
        kept = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        scores, rows = np.take_along_axis(scores, kept, 1), np.take_along_axis(rows, kept, 1)
    return rows


def query_figures(way: Way, queries: Float32, breadth: int, exact: Rows, passing: Mask = None) -> dict[str, float]:
    """Recall@10, CPU milliseconds per query, and the lowest number of rows found by a query."""
    found, seconds = np.full_like(exact, -1), []
    for number, query in enumerate(queries):
        started = time.process_time()
        rows = way.search(query, K, breadth, passing)
        seconds.append(time.process_time() - started)
        rows = rows[rows >= 0]
        found[number, : len(rows)] = rows
    return {
        "recall": index_recall(found, exact),
        "milliseconds": statistics.mean(seconds) * 1e3,
        "fewest_found": int((found >= 0).sum(axis=1).min()),
    }


def measure(make: Callable[[], Way], made: Generated, truth: dict[str, Rows], masks: dict[str, Mask]) -> dict[str, Any]:
    """All figures of one index."""
    way = make()
    started = time.process_time()
    way.build(made.vectors)
    build_seconds = time.process_time() - started
    with tempfile.TemporaryDirectory() as folder:
        way.save(Path(folder) / "index")
        num_bytes = (Path(folder) / "index").stat().st_size
    tuning, typed = made.typed[:NUM_QUERIES], made.typed[NUM_QUERIES:]
    for breadth in way.breadths:
        if query_figures(way, tuning, breadth, truth["tuning"])["recall"] >= WANTED_RECALL:
            break
    return {
        "build_seconds": build_seconds,
        "bytes_per_post": num_bytes / len(made.vectors),
        "breadth": breadth,
        "typed": query_figures(way, typed, breadth, truth["typed"]),
        "posts": query_figures(way, made.posts, breadth, truth["posts"]),
        "filtered": {name: query_figures(way, typed, breadth, truth[name], mask) for name, mask in masks.items()},
    }


def main() -> None:
    """Prints one line per index and writes the figures."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    load = round(os.getloadavg()[0], 2)
    num_posts = int(os.environ.get("BOORU_EMBED_POSTS", "1000000"))
    made = generate(num_posts, 2 * NUM_QUERIES)
    made = replace(made, posts=made.posts[:NUM_QUERIES])
    tuning, typed = made.typed[:NUM_QUERIES], made.typed[NUM_QUERIES:]
    generator = np.random.default_rng(3)
    masks: dict[str, Mask] = {str(share): generator.random(num_posts) < share for share in SHARES}
    truth = {name: best_rows(made.vectors, typed, mask) for name, mask in masks.items()}
    for name, queries in (("tuning", tuning), ("typed", typed), ("posts", made.posts)):
        truth[name] = best_rows(made.vectors, queries)
    figures = {}
    for name, make in WAYS.items():
        figures[name] = measure(make, made, truth, masks)
        print(f"  {display_name(name):38}{figures[name]}", flush=True)
    write(
        "search",
        {
            "num_posts": num_posts,
            "dim": made.vectors.shape[1],
            "num_queries": NUM_QUERIES,
            "load_average_before": load,
            "versions": {name: version(name) for name in ("faiss-cpu", "usearch")},
            "figures": figures,
        },
    )


if __name__ == "__main__":
    main()
