"""Stages of the full-scale benchmark: embeddings of tags and posts, the index, and search.

The index is that of generated vectors (`_post_vectors.py`), one for each post: embedding all posts takes an hour of a
core, and `embedding` measures the rate on some of them. Searches read that index and the posts' own tags.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks._full_scale import Place, Stage, asset_stage, cpu_seconds, own_peak_mb
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile

if TYPE_CHECKING:
    from booru_embed_core.search.vector_index import VectorIndex

NUM_EMBEDDED: Final = 200_000
NUM_SEARCHES: Final = 256
DIM: Final = 128
_BLOCK: Final = 16_384
_TUNING: Final = 512
_VECTORS: Final = "vectors.npy"
_QUERIES: Final = "queries.npy"
_SEED: Final = 7
_K: Final = 20
NUM_FILTERED: Final = 16
"""Queries whose recall among the rows of masks is measured."""
SHARES: Final = (0.5, 0.1, 0.02, 0.005)
_NOISE: Final = 0.1
_SAMPLED: Final = 37
_CHUNK: Final = 65_536


def embedding(place: Place) -> dict[str, Any]:
    """Embeds the first `NUM_EMBEDDED` posts, part by part, as ``post_embeddings`` does."""
    from booru_embed_core.search.build import PART_POSTS, _Embedding

    made = _Embedding(place.current("checkpoint"), place.current("packed_tokens") / PACKED_FILE, "auto", "auto")
    num = min(NUM_EMBEDDED, made.packed.num_posts)
    for start in range(0, num, PART_POSTS):
        made.embed(*made.tags_of(np.arange(start, min(num, start + PART_POSTS))))
    return {"rows": num}


def generate_vectors(scratch: Path, num_posts: int) -> None:
    """Writes a vector for each post and queries to `scratch`."""
    from benchmarks._post_vectors import generate

    made = generate(num_posts, _TUNING + NUM_SEARCHES, DIM)
    np.save(scratch / _QUERIES, made.typed)
    np.save(scratch / _VECTORS, made.vectors)


def _generate(place: Place) -> None:
    num_posts = _packed(place).num_posts
    if (place.scratch / _VECTORS).exists() and len(np.load(place.scratch / _VECTORS, mmap_mode="r")) == num_posts:
        return
    call = f"generate_vectors(Path({str(place.scratch)!r}), {num_posts})"
    code = f"from pathlib import Path; from benchmarks._full_scale_vectors import generate_vectors; {call}"
    subprocess.run([sys.executable, "-c", code], check=True)


def _packed(place: Place) -> PackedFile:
    return PackedFile.open(place.current("packed_tokens") / PACKED_FILE, is_verified=True)


def _blocks(file: Path) -> Iterator[Any]:
    mapped = np.load(file, mmap_mode="r")
    shape, first = mapped.shape, mapped.offset
    del mapped
    with file.open("rb") as stream:
        stream.seek(first)
        for start in range(0, shape[0], _BLOCK):
            num = min(_BLOCK, shape[0] - start)
            yield np.fromfile(stream, np.float16, num * shape[1]).reshape(num, shape[1])


def index(place: Place) -> dict[str, Any]:
    """Writes the index of as many vectors as there are posts."""
    from booru_embed_core.search.index_file import write_index
    from booru_embed_core.search.vector_index import INDEX_FILE

    num_posts, file = _packed(place).num_posts, place.scratch / INDEX_FILE
    queries = np.load(place.scratch / _QUERIES)[:_TUNING]
    made, recall = write_index(file, num_posts, lambda: _blocks(place.scratch / _VECTORS), queries)
    figures = {"nprobe": made.nprobe, "num_lists": made.num_lists, "recall@10": recall}
    return {"rows": num_posts, "disk_bytes": file.stat().st_size, "peak_mb": own_peak_mb(), **figures}


def posts_table(place: Place) -> dict[str, Any]:
    """Writes the tags of each post and the posts of each tag."""
    from booru_embed_core.search.build import _tags
    from booru_embed_core.search.posts_table import POSTS_FILE, TAGS_FILE, write_posts_table
    from booru_embed_core.tags.vocab import Vocab

    packed, vocab = _packed(place), Vocab.load(place.current("vocab"))
    tags = _tags(packed, vocab)
    write_posts_table(place.scratch, packed.post_id, packed.rating, packed.score, tags, vocab.num_tags)
    num_bytes = sum((place.scratch / name).stat().st_size for name in (POSTS_FILE, TAGS_FILE))
    return {"rows": packed.num_posts, "disk_bytes": num_bytes}


def search(place: Place) -> dict[str, Any]:
    """Searches by 1 to 4 tags of a post, in turn without a condition, without a further tag, and with a rating."""
    import faiss

    from booru_embed_core.search.filters import Filter, HasAny, Not, RatingIs, passing
    from booru_embed_core.search.posts_table import PostsTable
    from booru_embed_core.search.ranking import ranked
    from booru_embed_core.search.vector_index import INDEX_FILE, VectorIndex

    faiss.omp_set_num_threads(1)
    before = cpu_seconds()
    table = PostsTable.open(place.scratch)
    found = VectorIndex.open(place.scratch / INDEX_FILE, _nprobe(), (table.num_posts, DIM))
    numbers, queries = np.random.default_rng(_SEED), np.load(place.scratch / _QUERIES)[_TUNING:]
    conditions: list[list[Filter]] = [[], [Not(HasAny((0,)))], [RatingIs(frozenset([0, 1]))]]
    seconds: dict[str, list[float]] = {"": [], "_without_a_tag": [], "_with_ratings": [], "_by_embedding": []}
    for vector in queries:
        tags = numbers.permutation(table.tags[int(numbers.integers(table.num_posts))])[: numbers.integers(1, 5)]
        for name, filters in zip(seconds, [*conditions, []], strict=True):
            asked = [] if name == "_by_embedding" else tags.tolist()
            started = time.process_time()
            ranked(table, found, vector, _K, asked, asked, passing(filters, table))
            seconds[name].append(time.process_time() - started)
    figures: dict[str, float] = {f"median_ms{name}": _milliseconds(taken, 0.5) for name, taken in seconds.items()}
    figures |= {f"p95_ms{name}": _milliseconds(taken, 0.95) for name, taken in seconds.items()}
    figures |= {"max_ms": _milliseconds(seconds[""], 1), "cpu_seconds": round(cpu_seconds() - before, 2)}
    figures["peak_mb"] = own_peak_mb()
    return figures | filtered_recall(found, place.scratch / _VECTORS, queries[:NUM_FILTERED])


def filtered_recall(index: VectorIndex, vectors_file: Path, queries: NDArray[np.float32]) -> dict[str, float]:
    """The mean recall@10 of `queries` among the rows of masks, by kind of mask, and the lowest mean of a kind and size.

    The masks hold each of `SHARES` of the rows: random ones, those near to the query, far from it, and near to another
    query. Nearness has noise, as that of posts with a tag has, so that a mask has no sharp border.
    """
    from booru_embed_core.search.vector_index import RECALL_K, index_recall

    vectors, numbers = np.load(vectors_file, mmap_mode="r"), np.random.default_rng(_SEED)
    noise = numbers.normal(0, _NOISE, len(vectors)).astype(np.float32)
    found: dict[tuple[str, float], list[float]] = {}
    scores = np.concatenate(
        [queries @ vectors[start : start + _CHUNK].astype(np.float32).T for start in range(0, len(vectors), _CHUNK)],
        axis=1,
    )
    for query, near, other in zip(queries, scores, np.roll(scores, 1, axis=0), strict=True):
        values = {"random": noise, "near": near + noise, "far": noise - near, "other": other + noise / 3}
        for kind, value in values.items():
            for share in SHARES:
                passing = value > np.quantile(value[::_SAMPLED], 1 - share)
                rows = np.flatnonzero(passing)
                k = min(RECALL_K, len(rows))
                best = rows[np.argpartition(-near[rows], k - 1)[:k]]
                recall = index_recall(index.search(query, k, passing)[0][None], best[None])
                found.setdefault((kind, share), []).append(recall)
    means = {key: float(np.mean(recalls)) for key, recalls in found.items()}
    kinds = dict.fromkeys(kind for kind, _ in means)
    figures = {f"recall_{kind}": float(np.mean([means[kind, share] for share in SHARES])) for kind in kinds}
    return {name: round(value, 4) for name, value in (figures | {"recall_lowest": min(means.values())}).items()}


def _nprobe() -> int:
    from benchmarks.full_scale import read_results

    return int(read_results().get("index", {}).get("nprobe", 256))


def _milliseconds(seconds: list[float], share: float) -> float:
    return round(1e3 * float(np.quantile(seconds, share)), 2)


STAGES: Final[tuple[Stage, ...]] = (
    asset_stage(
        "tag_embeddings",
        "dagster/row_count",
        limits={"cpu_seconds": 180, "peak_mb": 1000},
        before={"cpu_seconds": 533, "peak_mb": 2000, "disk_bytes": 93e6},
    ),
    Stage("embedding", embedding, before={"rows_per_cpu_second": 2090, "peak_mb": 2200}),
    Stage(
        "index",
        index,
        _generate,
        limits={"cpu_seconds": 480, "peak_mb": 2000},
        before={"cpu_seconds": 1012, "peak_mb": 6800},  # with the table of the posts
    ),
    Stage("posts_table", posts_table, limits={"peak_mb": 2000}),
    Stage("search", search, limits={"p95_ms": 20}, before={"p95_ms": 348.22}),
)
