"""A packed file of random posts, written without the pipeline, for benchmarks that read one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import NUM_CATEGORIES, RATINGS
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_core.tokens.packed_writer import packed_metadata, write_packed_file

NUM_POSTS: Final = 5_770_089
"""Posts of the earlier project's export."""
_OTHER_FIELDS: Final = ((1, 2), (0, 3), (0, 4), (1, 5))
"""Bounds [low, high) of the uniform tag counts of the fields after the general one."""


def random_packed(folder: Path, num_posts: int = NUM_POSTS, seed: int = 0) -> PackedFile:
    """A packed file of `num_posts` records in `folder`: log-normal counts of general tags (median 27), uniform ids."""
    generator = np.random.default_rng(seed)
    lengths = np.empty((num_posts, NUM_CATEGORIES), np.uint16)
    lengths[:, 0] = np.exp(3.3 + 0.45 * generator.standard_normal(num_posts)).clip(1, 220)
    for field, bounds in enumerate(_OTHER_FIELDS, start=1):
        lengths[:, field] = generator.integers(*bounds, num_posts)
    offsets = np.concatenate([[0], np.cumsum(lengths.sum(1, dtype=np.int64))]).astype(np.uint64)
    arrays: dict[str, NDArray[Any]] = {
        "tokens": generator.integers(0, 1 << 16, int(offsets[-1]), np.uint16),
        "offsets": offsets,
        "field_lengths": lengths,
        "post_id": np.arange(num_posts, dtype=np.int64),
        "rating": generator.integers(0, len(RATINGS), num_posts, np.uint8),
        "score": generator.integers(-5, 200, num_posts, np.int32),
    }
    path = folder / PACKED_FILE
    write_packed_file(path, arrays, packed_metadata("0" * 64, num_posts, int(offsets[-1]), TokensSettings()))
    return PackedFile.open(path)
