"""Caption lengths, and the share of posts that a context length covers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.posts.arrow import schema_of
from booru_embed_core.schema import CATEGORIES, NUM_CATEGORIES
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import PackedFile

CAPTION_LENGTHS_FILE: Final = "caption_lengths.parquet"
LENGTHS_SCHEMA: Final = schema_of(
    {
        "length": pa.int64(),
        "num_posts": pa.int64(),
        "share_covered": pa.float64(),
    }
)
SHORT_LENGTHS: Final = (1, 5, 10)
_CHUNK_POSTS: Final = 1 << 17


def caption_lengths(packed: PackedFile) -> pa.Table:
    """Posts by the number of their tags in the vocabulary, one row for each length from 0 to the longest.

    ``share_covered`` is the share of posts with at most `length` tags: those that fit into a context of that many tags,
    not counting a model's summary, rating and score tokens.
    """
    lengths = np.diff(packed.offsets.astype(np.int64))
    num_posts = np.bincount(lengths, minlength=1)
    share = np.cumsum(num_posts) / max(len(lengths), 1)
    return pa.table([np.arange(len(num_posts)), num_posts, share], schema=LENGTHS_SCHEMA)


def short_posts(packed: PackedFile, vocab: Vocab | None = None) -> pa.Table:
    """Numbers of posts with fewer than each of `SHORT_LENGTHS` tags left after the cut, overall and by category.

    Columns: ``tags_of`` (all, or a category), and ``fewer_than_1`` and so on, int64 posts. A post that never had tags
    of a category counts too. With the `vocab` of `packed`, unknown tokens do not count as tags; without it, each counts
    as one.
    """
    counts = np.zeros((1 + NUM_CATEGORIES, len(SHORT_LENGTHS)), dtype=np.int64)
    for start in range(0, packed.num_posts, _CHUNK_POSTS):
        lengths = packed.field_lengths[start : start + _CHUNK_POSTS].astype(np.int64)
        if vocab is not None:
            lengths -= _ends_unknown(packed, vocab, start, lengths)
        both = np.column_stack((lengths.sum(axis=1), lengths))
        counts += np.stack([(both < length).sum(axis=0) for length in SHORT_LENGTHS], axis=1)
    names = pa.array(["all", *(category.value for category in CATEGORIES)])
    columns = {f"fewer_than_{length}": counts[:, column] for column, length in enumerate(SHORT_LENGTHS)}
    return pa.table({"tags_of": names, **columns})


def _ends_unknown(packed: PackedFile, vocab: Vocab, start: int, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each field ends with its unknown token, bool `[posts, NUM_CATEGORIES]`, for posts from `start` on."""
    ends = packed.offsets[start : start + len(lengths), None].astype(np.int64) + np.cumsum(lengths, axis=1)
    found = np.zeros(lengths.shape, dtype=np.bool_)
    for category_id, category in enumerate(CATEGORIES):
        local_id = vocab.unknown_local_id(category)
        if local_id is not None:
            has_tags = lengths[:, category_id] > 0
            found[has_tags, category_id] = packed.tokens[ends[has_tags, category_id] - 1] == local_id
    return found


def write_caption_lengths(packed: PackedFile, out_dir: Path) -> pa.Table:
    """The table of `caption_lengths`, also written as ``caption_lengths.parquet``."""
    table = caption_lengths(packed)
    pq.write_table(table, out_dir / CAPTION_LENGTHS_FILE, compression="zstd")
    return table
