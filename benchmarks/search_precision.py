"""Do posts have what was asked for: the share of results with the tags of a query, by tags and by embedding.

Two kinds of queries on the posts of a warehouse: every tag of the vocabulary alone, and three tags of a random post
(1,000 posts, seed 7). ``possible`` is the share that a perfect search reaches: some tags have fewer posts than the
20 results.

``BOORU_EMBED_WAREHOUSE`` names the warehouse; the default is ``data/warehouse``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks._results import write
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.search.post_search import RANKINGS, PostSearch
from booru_embed_core.search.ranking import tags_held

K: Final = 20
NUM_POSTS: Final = 1000
_SEED: Final = 7


def precision(search: PostSearch, embedder: BooruEmbedder, queries: list[list[int]]) -> dict[str, Any]:
    """The mean share of the `K` results that have all tags of the query, by each ranking and at most."""
    spellings = embedder.tokenizer.spellings
    shares: dict[str, list[float]] = {by: [] for by in (*RANKINGS, "possible")}
    for tags in queries:
        names = {embedder.vocab.tags[tag] for tag in tags}
        query = " ".join(spellings[tag] for tag in tags)
        for by in RANKINGS:
            found = search.search(embedder, query, K, by=by)
            shares[by].append(sum(names <= {tag.tag for tag in post.tags} for post in found) / K)
        shares["possible"].append(min(K, int(np.count_nonzero(tags_held(search.table, tags) == len(tags)))) / K)
    return {
        "num_queries": len(queries),
        **{by: float(np.mean(values)) for by, values in shares.items()},
        "none_by_embedding": sum(share == 0 for share in shares["embedding"]),
        "none_by_tags": sum(share == 0 for share in shares["tags"]),
    }


def main() -> None:
    """Prints and writes the figures."""
    warehouse = Path(os.environ.get("BOORU_EMBED_WAREHOUSE", "data/warehouse"))
    if not (warehouse / "post_embeddings/current").exists():
        sys.exit(f"{warehouse}: no post_embeddings; materialize them, or set BOORU_EMBED_WAREHOUSE")
    search = PostSearch.open(warehouse / "post_embeddings/current")
    embedder = BooruEmbedder.load(warehouse / "checkpoint/current", "cpu", "fp32")
    known = ~embedder.vocab.is_unknown
    numbers = np.random.default_rng(_SEED)
    rows = numbers.permutation([row for row in range(search.num_posts) if known[search.table.tags[row]].sum() >= 3])
    records = [search.table.tags[row] for row in rows[:NUM_POSTS].tolist()]
    queries = {
        "each tag": [[tag] for tag in np.flatnonzero(known).tolist()],
        "three tags of a post": [numbers.permutation(tags[known[tags]])[:3].tolist() for tags in records],
    }
    figures = {name: precision(search, embedder, asked) for name, asked in queries.items()}
    for name, figure in figures.items():
        print(f"  {name:24}{figure}")
    write("search_precision", {"num_posts": search.num_posts, "k": K, "seed": _SEED, "figures": figures})


if __name__ == "__main__":
    main()
