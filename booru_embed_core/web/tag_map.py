"""Where every tag lies on the page's map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.embedder import BooruEmbedder


class PlacesError(ValueError):
    """The table of tag embeddings cannot give places; the message names the file and the remedy."""


@dataclass(frozen=True, eq=False)
class TagMap:
    """A map: tag indices int64 ``[n]``, and their places float32 ``[n, 2]``."""

    tag_indices: NDArray[np.int64]
    points: NDArray[np.float32]


def tag_places(embedder: BooruEmbedder, table: Path | None = None) -> TagMap:
    """The places that `table` (the asset ``tag_embeddings``) has for tags; without one, two principal components.

    Raises:
        PlacesError: it is no such table, or one of another checkpoint.
    """
    if table is None:
        known = np.flatnonzero(~embedder.vocab.is_unknown)
        return TagMap(known, _principal_components(embedder.tag_embeddings()[known]))
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(table, columns=["tag", "category", "vector", "x", "y"])
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise PlacesError(f"{table}: no places of tags ({error}); materialize tag_embeddings again") from None
    index_of = {
        (category.value, tag): index
        for index, (category, tag) in enumerate(embedder.tokenizer.decode(_every_id(embedder)))
    }
    named = zip(columns["category"].to_pylist(), columns["tag"].to_pylist(), strict=True)
    indices = np.array([index_of.get((str(category), str(tag)), -1) for category, tag in named], dtype=np.int64)
    dim = embedder.embedding_dim
    vectors = pc.list_flatten(columns["vector"]).to_numpy()
    # bf16 moves a vector's third digit; another training gives other vectors altogether.
    is_other = (indices < 0).any() or vectors.size != len(indices) * dim
    if is_other or np.mean((vectors.reshape(-1, dim) * embedder.tag_embeddings()[indices]).sum(1)) < 0.98:
        raise PlacesError(f"{table}: of another checkpoint; materialize tag_embeddings again, or leave it out")
    points = np.stack([columns[axis].to_numpy().astype(np.float32) for axis in ("x", "y")], axis=1)
    has_place = ~np.isnan(points).any(axis=1)
    return TagMap(indices[has_place], points[has_place])


def _every_id(embedder: BooruEmbedder) -> range:
    return range(embedder.vocab.num_special, embedder.vocab.num_tokens)


def _principal_components(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ axes[:, ::-1][:, :2], dtype=np.float32)
