"""How long captions are, in tags: what a context length would cover."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from booru_embed_core.posts.arrow import schema_of
from booru_embed_core.tokens.packed_file import PackedFile

CAPTION_LENGTHS_FILE: Final = "caption_lengths.parquet"
LENGTHS_SCHEMA: Final = schema_of(
    {
        "length": pa.int64(),
        "num_posts": pa.int64(),
        "share_covered": pa.float64(),
    }
)


def caption_lengths(packed: PackedFile) -> pa.Table:
    """Posts by the number of their tags in the vocabulary, one row for each length from 0 to the longest.

    ``share_covered`` is the share of posts with `length` tags or fewer: those that a context of that many tags holds
    whole (a model's summary, rating and score tokens come on top).
    """
    lengths = np.diff(packed.offsets.astype(np.int64))
    num_posts = np.bincount(lengths, minlength=1)
    share = np.cumsum(num_posts) / max(len(lengths), 1)
    return pa.table([np.arange(len(num_posts)), num_posts, share], schema=LENGTHS_SCHEMA)


def write_caption_lengths(packed: PackedFile, out_dir: Path) -> pa.Table:
    """The table of `caption_lengths`, also written as ``caption_lengths.parquet``."""
    table = caption_lengths(packed)
    pq.write_table(table, out_dir / CAPTION_LENGTHS_FILE, compression="zstd")
    return table
