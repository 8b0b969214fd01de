"""How much longer does a search take that ranks by tags: milliseconds per query, beside the search by embedding.

A million generated posts (`_post_vectors.py`) with their tags, one thread, the index of `booru-embed index`. Queries
are 1 to 4 tags of a post. Each query is answered both ways in turn, so that both see the same machine; its embedding is
given, so the model takes no part. Then the same with a tag excluded, and with a rating. Seconds are CPU seconds.

``BOORU_EMBED_POSTS`` is the number of posts (1,000,000).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._post_vectors import NUM_TAGS, Generated, generate
from benchmarks._results import write
from booru_embed_core.search.filters import Filter, HasAny, Not, RatingIs, passing
from booru_embed_core.search.posts_table import PostsTable, write_posts_table
from booru_embed_core.search.ranking import ranked, tags_held
from booru_embed_core.search.vector_index import VectorIndex

K: Final = 20
NUM_QUERIES: Final = 256
_SEED: Final = 3


def posts_table(folder: Path, made: Generated) -> PostsTable:
    """The table of the generated posts, with random ratings."""
    num_posts = len(made.lengths)
    owners = np.repeat(np.arange(num_posts), made.lengths)
    pairs = np.unique(owners * NUM_TAGS + made.tags)  # a post has a tag once
    lengths = np.bincount(pairs // NUM_TAGS, minlength=num_posts)
    numbers = np.random.default_rng(_SEED)
    ratings = numbers.choice(4, num_posts, p=[0.3, 0.4, 0.2, 0.1]).astype(np.uint8)
    scores = numbers.integers(0, 100, num_posts).astype(np.int32)
    write_posts_table(folder, np.arange(num_posts), ratings, scores, [(pairs % NUM_TAGS, lengths)], NUM_TAGS)
    return PostsTable.open(folder)


def compared(
    table: PostsTable, index: VectorIndex, made: Generated, filters_of: Callable[[Sequence[int]], list[Filter]]
) -> dict[str, Any]:
    """Both ways, query after query: CPU milliseconds and the share of results with all tags, over what is possible."""
    seconds: dict[str, list[float]] = {"embedding": [], "tags": []}
    shares: dict[str, list[float]] = {"embedding": [], "tags": []}
    for vector, drawn in zip(made.typed, made.typed_tags, strict=True):
        tags = list(dict.fromkeys(drawn.tolist()))
        filters = filters_of(tags)
        for by in seconds:
            started = time.process_time()
            mask = passing(filters, table)
            rows = ranked(table, index, vector, K, tags if by == "tags" else (), tags, mask)[0]
            seconds[by].append(time.process_time() - started)
            shares[by].append(_share_with_all(table, rows, tags))
        mask = passing(filters, table)
        held = tags_held(table, tags) == len(tags)
        possible = int(np.count_nonzero(held if mask is None else held & mask))
        assert shares["tags"][-1] == min(possible, K) / K, "a post with all tags was missed"
    return {
        by: {
            "milliseconds": 1e3 * float(np.mean(seconds[by])),
            "p95_milliseconds": 1e3 * float(np.quantile(seconds[by], 0.95)),
            "share_with_all_tags": float(np.mean(shares[by])),
        }
        for by in seconds
    }


def _share_with_all(table: PostsTable, rows: NDArray[np.int64], tags: Sequence[int]) -> float:
    wanted = np.array(tags)
    return sum(bool(np.isin(wanted, table.tags[row]).all()) for row in rows.tolist()) / K


def main() -> None:
    """Prints and writes the figures."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    load = round(os.getloadavg()[0], 2)
    num_posts = int(os.environ.get("BOORU_EMBED_POSTS", "1000000"))
    made = generate(num_posts, 2 * NUM_QUERIES)
    index = VectorIndex.build(made.vectors)
    index.tune(made.typed[NUM_QUERIES:])
    made = Generated(
        made.vectors, made.typed[:NUM_QUERIES], made.posts, made.tags, made.lengths, made.typed_tags[:NUM_QUERIES]
    )
    ways: dict[str, Callable[[Sequence[int]], list[Filter]]] = {
        "tags alone": lambda _: [],
        "one tag excluded": lambda tags: [Not(HasAny((next(tag for tag in range(9) if tag not in tags),)))],
        "one rating of four": lambda _: [RatingIs(frozenset([1]))],
    }
    with tempfile.TemporaryDirectory() as folder:
        table = posts_table(Path(folder), made)
        figures = {name: compared(table, index, made, filters_of) for name, filters_of in ways.items()}
    for name, figure in figures.items():
        print(f"  {name:20}{figure}")
    about = {"num_posts": num_posts, "k": K, "num_queries": NUM_QUERIES, "nprobe": index.nprobe}
    write("search_ranking", {**about, "load_average_before": load, "figures": figures})


if __name__ == "__main__":
    main()
