"""Which cosine finds the tags that belong together, and how large do hubs grow: remedies for hubs beside each other.

The reference are tags that occur together in the test split, which training never saw: the ten tags with the highest
normalised pointwise mutual information (Bouma 2009) with each tag, of those that 20 of its posts have; a pair counts
from three posts on. ``overlap`` is the mean share of a tag's ten nearest tags that are among these ten. The largest hub
is the tag that is among the ten nearest of most others. A remedy is chosen on the validation split.

``BOORU_EMBED_WAREHOUSE`` names the warehouse; the default is ``data/warehouse``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks._results import write
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.schema import SPLITS
from booru_embed_core.tokens.cooccurrence import captions_from_packed, count_cooccurrence
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_core.tokens.splits import split_ids
from booru_embed_core.vectors import unit_vectors

K: Final = 10
MIN_POSTS: Final = 20
MIN_TOGETHER: Final = 3
Array = NDArray[np.float64]


def association(together: Array, num_posts: int) -> tuple[Array, NDArray[np.bool_]]:
    """The normalised pointwise mutual information of each pair of tags, and which tags are compared."""
    counts = np.diag(together)
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = together / num_posts
        values = np.log(pairs / np.outer(counts, counts) * num_posts**2) / -np.log(pairs)
    values[together < MIN_TOGETHER] = -1
    return values, counts >= MIN_POSTS


def nearest(similarity: Array, compared: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The `K` most similar tags of each tag, ``[num_tags, K]``."""
    similarity = similarity.copy()
    np.fill_diagonal(similarity, -np.inf)
    similarity[:, ~compared] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :K]


def quality(similarity: Array, values: Array, compared: NDArray[np.bool_]) -> dict[str, Any]:
    """The overlap with the reference, and how often the tags are among the nearest of others."""
    rows = np.flatnonzero(compared)
    found, expected = nearest(similarity, compared), nearest(values, compared)
    num_found = np.bincount(found[rows].ravel(), minlength=len(compared))[rows]
    spread = num_found - num_found.mean()
    return {
        "num_tags": len(rows),
        "overlap": float(np.mean([len(np.intersect1d(found[row], expected[row])) / K for row in rows.tolist()])),
        "largest_hub": int(num_found.max()),
        "skewness": float((spread**3).mean() / (spread**2).mean() ** 1.5),
        "never_found": int((num_found == 0).sum()),
    }


def cosines(vectors: Array) -> Array:
    """The cosine of each pair."""
    unit = unit_vectors(vectors)
    product: Array = unit @ unit.T
    return product


def without_components(vectors: Array, num: int) -> Array:
    """`vectors` without their first `num` principal components (Mu, Viswanath 2018, "All-but-the-Top")."""
    directions = np.linalg.svd(vectors, full_matrices=False)[2][:num]
    rest: Array = vectors - vectors @ directions.T @ directions
    return rest


def scaled_locally(similarity: Array) -> Array:
    """CSLS: twice the similarity minus the mean ones of the ten nearest of both (Conneau et al. 2018, section 2.3)."""
    others = similarity.copy()
    np.fill_diagonal(others, -np.inf)
    means = np.sort(others, axis=1)[:, -K:].mean(axis=1)
    scaled: Array = 2 * similarity - means[:, None] - means[None, :]
    return scaled


def mutual(similarity: Array) -> Array:
    """Mutual proximity with normal distributions (Schnitzer et al. 2012, section 3.2)."""
    from scipy.stats import norm

    shares: Array = norm.cdf((similarity - similarity.mean(1, keepdims=True)) / similarity.std(1, keepdims=True))
    return shares * shares.T


def remedies(vectors: Array, counts: NDArray[np.int64]) -> dict[str, Callable[[], Array]]:
    """Each remedy as a function that gives the similarity of each pair of tags."""
    mean = vectors - vectors.mean(0)
    by_use = vectors - counts @ vectors / counts.sum()
    return {
        "cosine": lambda: cosines(vectors),
        "minus the mean": lambda: cosines(mean),
        "minus the mean by use: booru-embed": lambda: cosines(by_use),
        "minus the mean and a component": lambda: cosines(without_components(mean, 1)),
        "minus the mean and three components": lambda: cosines(without_components(mean, 3)),
        "CSLS": lambda: scaled_locally(cosines(vectors)),
        "minus the mean by use, CSLS": lambda: scaled_locally(cosines(by_use)),
        "mutual proximity": lambda: mutual(cosines(vectors)),
        "minus the mean by use, mutual proximity": lambda: mutual(cosines(by_use)),
    }


def main() -> None:
    """Prints and writes the figures."""
    warehouse = Path(os.environ.get("BOORU_EMBED_WAREHOUSE", "data/warehouse"))
    if not (warehouse / "checkpoint/current").exists():
        sys.exit(f"{warehouse}: no checkpoint; train one, or set BOORU_EMBED_WAREHOUSE")
    embedder = BooruEmbedder.load(warehouse / "checkpoint/current", "cpu", "fp32")
    packed = PackedFile.open(warehouse / "packed_tokens/current" / PACKED_FILE)
    known = np.flatnonzero(~embedder.vocab.is_unknown)
    vectors = embedder.tag_embeddings()[known].astype(np.float64)
    ways = remedies(vectors, embedder.vocab.counts[known])
    splits = split_ids(packed.post_id, embedder.config.splits)
    figures: dict[str, dict[str, Any]] = {name: {} for name in ways}
    for split in ("validation", "test"):
        rows = np.flatnonzero(splits == SPLITS.index(split))
        captions = captions_from_packed(packed, embedder.vocab, rows)[:, known]
        pairs = count_cooccurrence(captions, len(known))
        values, compared = association(pairs.together, pairs.num_posts)
        for name, similarity in ways.items():
            figures[name][split] = quality(similarity(), values, compared)
    for name, figure in figures.items():
        print(f"  {name:42}{figure}")
    write("similar", {"num_tags": len(known), "k": K, "figures": figures})


if __name__ == "__main__":
    main()
