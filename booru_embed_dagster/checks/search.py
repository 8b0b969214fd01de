"""Checks of the posts' embeddings: none is missing, and the index finds the nearest ones."""

from __future__ import annotations

from typing import Final

import numpy as np

from booru_embed_core.posts.arrow import read_parquet
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_dagster.checks.base import Findings, blocking, column_problems
from booru_embed_dagster.resources import Pipeline

LENGTH_TOLERANCE: Final = 5e-3
"""Half precision rounds each number to one part in 2,048."""
NUM_ASKED: Final = 256
_SEED: Final = 7
_REMEDY: Final = "materialize post_embeddings again"


@blocking("post_embeddings")
def every_post_has_its_embedding(pipeline: Pipeline) -> Findings:
    """The parts hold the posts of the packed file in its order, and each vector is finite and of unit length."""
    from booru_embed_core.search.build import vectors_schema
    from booru_embed_core.search.folder import PART_FILES, part_vectors, read_metadata

    (embeddings,) = pipeline.current("post_embeddings")
    packed = PackedFile.open(pipeline.made_from(embeddings, "packed_tokens").path / PACKED_FILE)
    files = sorted(embeddings.path.glob(PART_FILES))
    problems = column_problems(files, vectors_schema(read_metadata(embeddings.path).dim), "post_embeddings")
    num_posts = 0
    for file in files if not problems else ():
        ids = read_parquet(file, ["post_id"])["post_id"].to_numpy()
        if not np.array_equal(ids, packed.post_id[num_posts : num_posts + len(ids)]):
            problems.append(f"{file}: its posts are not those of {packed.path}; {_REMEDY}")
        lengths = np.linalg.norm(part_vectors(file).astype(np.float32), axis=-1)
        if not np.all(np.abs(lengths - 1) < LENGTH_TOLERANCE):  # nan is not either
            problems.append(f"{file}: a vector is not of unit length; {_REMEDY}")
        num_posts += len(ids)
    if not problems and num_posts != packed.num_posts:
        problems.append(f"{embeddings.path}: {num_posts:,} posts of {packed.num_posts:,}; {_REMEDY}")
    return Findings(problems, {"num_posts": num_posts})


@blocking("post_embeddings")
def index_finds_the_nearest_posts(pipeline: Pipeline) -> Findings:
    """For a sample of posts the index finds at least 95% of the ten nearest embeddings."""
    from booru_embed_core.search.post_search import PostSearch
    from booru_embed_core.search.vector_index import MIN_RECALL

    (embeddings,) = pipeline.current("post_embeddings")
    search = PostSearch.open(embeddings.path)
    problems = []
    if search.index.num_rows != search.num_posts:
        problems.append(
            f"{embeddings.path}: {search.index.num_rows:,} posts of {search.num_posts:,} in the index; {_REMEDY}"
        )
    rows = np.random.default_rng(_SEED).integers(0, search.num_posts, NUM_ASKED).tolist()
    recall = search.index.recall(search.vectors(rows))
    if not recall >= MIN_RECALL:
        problems.append(f"{embeddings.path}: recall@10 {recall:.3f}, less than {MIN_RECALL}; {_REMEDY}")
    return Findings(problems, {"recall@10": recall, "num_asked": len(rows)})
