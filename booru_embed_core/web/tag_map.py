"""Coordinates of every tag on the page's map."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.neighbours import Vectors, embeddings_of_tags
from booru_embed_core.errors import first_line
from booru_embed_core.filesystem import open_regular
from booru_embed_core.schema import CATEGORIES
from booru_embed_core.version_file import verify_version
from booru_embed_core.web import models

if TYPE_CHECKING:
    import pyarrow as pa

    from booru_embed_core.tags.vocab import Vocab

_SAME_COSINE: Final = 0.98
"""Mean cosine above which two tables of tag embeddings are of one model: bf16 changes the third digit of a vector."""


_COMPARED_RUNS: Final = 16
_RUN_TAGS: Final = 64
"""Tags that are compared: in runs, since each reads a page of the weights, and the system reads those beside it."""
_HALVED_BYTES: Final = 32_000_000
"""Size in float32 from which the tags' vectors are kept in half precision: that of 65,000 tags."""
PIECE_TAGS: Final = 25_000
"""Tags of a piece: 300 kB."""
_ROWS_AT_ONCE: Final = 16_384
_SIDE: Final = 65_535
"""Two places of the longer side of the map differ by a pixel where it is 800 pixels long and shown at 80 times that."""
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
        return TagMap(known, _principal_components(embedder.tag_vectors(_dtype(embedder)), known))
    import pyarrow as pa
    import pyarrow.parquet as pq

    from booru_embed_core.export.tag_vectors import read_vectors

    verify_version(table, TagMapError, _REMEDY)
    dim = embedder.embedding_dim
    try:
        with open_regular(table) as stream:
            columns = pq.read_table(stream, columns=["tag", "category", "x", "y"])
            points = np.stack([columns[axis].to_numpy().astype(np.float32) for axis in ("x", "y")], axis=1)
            indices = _indices(embedder, columns)
            del columns
            vectors = read_vectors(stream, len(indices), _dtype(embedder))
    except (OSError, ValueError, TypeError, LookupError, NotImplementedError, pa.ArrowException) as error:
        raise TagMapError(f"{table}: no coordinates of tags ({first_line(error)}); {_REMEDY}") from None
    is_other = (indices < 0).any() or vectors.shape[1] != dim
    if is_other or not _mean_cosine(embedder, indices, vectors) >= _SAME_COSINE:  # also of NaN
        raise TagMapError(f"{table}: of another checkpoint; {_REMEDY}, or leave it out")
    if np.array_equal(indices, np.arange(embedder.vocab.num_tags)):
        embedder.take_tag_embeddings(vectors)
    has_point = np.isfinite(points).all(axis=1)
    return TagMap(indices[has_point], points[has_point])


def pieces(tag_map: TagMap, vocab: Vocab) -> Iterator[bytes]:
    """The map as JSON in pieces (`models.MapPiece`): the most used tags first, places in whole numbers."""
    order = np.argsort(-vocab.counts[tag_map.tag_indices], kind="stable")
    indices, points = tag_map.tag_indices[order], tag_map.points[order].astype(np.float64)
    lowest, highest = (ends(points, axis=0) if len(points) else np.zeros(2) for ends in (np.min, np.max))
    side = max(float((highest - lowest).max()), np.finfo(np.float32).tiny)
    places = np.rint(_SIDE * ((points - (lowest + highest) / 2) / side + 0.5)).astype(np.int64)
    digest = hashlib.sha256(places.tobytes() + indices.tobytes()).hexdigest()[:16]
    num_pieces = max(1, -(-len(indices) // PIECE_TAGS))
    for number in range(num_pieces):
        part = slice(number * PIECE_TAGS, (number + 1) * PIECE_TAGS)
        piece = models.MapPiece(
            map=f"{vocab.hash[:16]}{digest}",
            num_pieces=num_pieces,
            num_tags=len(indices),
            tags=[vocab.tags[index] for index in indices[part].tolist()],
            categories=vocab.categories[indices[part]].tolist(),
            counts=vocab.counts[indices[part]].tolist(),
            x=places[part, 0].tolist(),
            y=places[part, 1].tolist(),
        )
        yield piece.model_dump_json().encode()


def _indices(embedder: BooruEmbedder, columns: pa.Table) -> NDArray[np.int64]:
    """The tag index of each row's tag in its category, -1 for one that is none, int64 ``[n]``."""
    import pyarrow as pa

    vocab = embedder.vocab
    categories = [CATEGORIES[number].value for number in vocab.categories.tolist()]
    if columns.select(["tag", "category"]).equals(pa.table({"tag": vocab.tags, "category": categories})):
        return np.arange(vocab.num_tags)  # without Python's copies of all names
    names = zip(columns["category"].to_pylist(), columns["tag"].to_pylist(), strict=True)
    index_of: dict[str, dict[str, int]] = {
        category.value: dict(zip(tags := vocab.tags_of(category), range(first, first + len(tags)), strict=True))
        for category, first in zip(CATEGORIES, (vocab.category_offsets - vocab.num_special).tolist(), strict=False)
    }
    return np.array(
        [index_of.get(str(category), {}).get(str(tag), -1) for category, tag in names],
        dtype=np.int64,
    )


def _dtype(embedder: BooruEmbedder) -> type[np.floating]:
    """In which the embeddings of all tags are kept."""
    return np.float16 if 4 * embedder.vocab.num_tags * embedder.embedding_dim >= _HALVED_BYTES else np.float32


def _mean_cosine(embedder: BooruEmbedder, indices: NDArray[np.int64], vectors: Vectors) -> float:
    """Of the tags' embeddings with `vectors`, over some of them: all of 189,000 would take ten seconds."""
    firsts = np.linspace(0, max(0, len(indices) - _RUN_TAGS), _COMPARED_RUNS).astype(np.int64)
    rows = np.unique(firsts[:, None] + np.arange(min(_RUN_TAGS, len(indices))))
    cosines = [
        (vectors[part] * embeddings_of_tags(embedder.network, indices[part])).sum(1)
        for part in np.array_split(rows, _COMPARED_RUNS)  # all at once would take 30 MB
    ]
    return float(np.mean(np.concatenate(cosines)))


def _principal_components(vectors: Vectors, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The two principal components of `rows` (int64 ``[n]``) of `vectors`, float32 ``[n, 2]``, a few rows at a time."""
    parts = np.array_split(rows, max(1, -(-len(rows) // _ROWS_AT_ONCE)))
    dim = vectors.shape[1]
    total, moments = np.zeros(dim), np.zeros((dim, dim))
    for part in parts:
        total += vectors[part].sum(axis=0, dtype=np.float64)
    mean = (total / max(1, len(rows))).astype(np.float32)
    for part in parts:
        centred = vectors[part].astype(np.float32) - mean
        moments += centred.T @ centred
    axes = np.linalg.eigh(moments)[1][:, ::-1][:, :2].astype(np.float32)
    return np.concatenate([(vectors[part] - mean) @ axes for part in parts])
