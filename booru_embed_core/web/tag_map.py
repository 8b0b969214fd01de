"""Coordinates of every tag on the page's map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.errors import first_line
from booru_embed_core.filesystem import open_regular
from booru_embed_core.version_file import verify_version

_SAME_COSINE: Final = 0.98
"""Mean cosine above which two tables of tag embeddings are of one model: bf16 changes the third digit of a vector."""


_REMEDY: Final = "materialize tag_embeddings again"


class TagMapError(ValueError):
    """The table of tag embeddings does not give a map; the message names the file and the remedy."""


@dataclass(frozen=True, eq=False)
class TagMap:
    """A map of tags.

    Attributes:
        tag_indices: int64 ``[n]``.
        points: float32 ``[n, 2]`` coordinates.
    """

    tag_indices: NDArray[np.int64]
    points: NDArray[np.float32]


def tag_map(embedder: BooruEmbedder, table: Path | None = None) -> TagMap:
    """The coordinates in `table` (the asset ``tag_embeddings``); without one, the two principal components.

    Raises:
        TagMapError: `table` has no coordinates, was changed, or is of another checkpoint.
    """
    if table is None:
        known = np.flatnonzero(~embedder.vocab.is_unknown)
        return TagMap(known, _principal_components(embedder.tag_embeddings()[known]))
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    verify_version(table, TagMapError, _REMEDY)
    dim = embedder.embedding_dim
    try:
        with open_regular(table) as stream:
            columns = pq.read_table(stream, columns=["tag", "category", "vector", "x", "y"])
        points = np.stack([columns[axis].to_numpy().astype(np.float32) for axis in ("x", "y")], axis=1)
        vectors = np.asarray(pc.list_flatten(columns["vector"]).to_numpy(), np.float32)
    except (OSError, ValueError, TypeError, LookupError, NotImplementedError, pa.ArrowException) as error:
        raise TagMapError(f"{table}: no coordinates of tags ({first_line(error)}); {_REMEDY}") from None
    vocab = embedder.vocab
    every_id = range(vocab.num_special, vocab.num_tokens)
    index_of = {(category.value, tag): i for i, (category, tag) in enumerate(embedder.tokenizer.decode(every_id))}
    named = zip(columns["category"].to_pylist(), columns["tag"].to_pylist(), strict=True)
    indices = np.array([index_of.get((str(category), str(tag)), -1) for category, tag in named], dtype=np.int64)
    is_other = (indices < 0).any() or vectors.size != len(indices) * dim
    # Also where the mean is NaN.
    if is_other or not np.mean((vectors.reshape(-1, dim) * embedder.tag_embeddings()[indices]).sum(1)) >= _SAME_COSINE:
        raise TagMapError(f"{table}: of another checkpoint; {_REMEDY}, or leave it out")
    has_point = np.isfinite(points).all(axis=1)
    return TagMap(indices[has_point], points[has_point])


def _principal_components(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ axes[:, ::-1][:, :2], dtype=np.float32)
