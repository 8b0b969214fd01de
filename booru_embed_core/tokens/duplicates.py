"""Captions that occur in two splits: different posts with equal tag sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import NUM_CATEGORIES, SPLITS
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.splits import keyed_hash

_CHUNK_POSTS = 65_536


@dataclass(frozen=True, kw_only=True)
class SharedCaptions:
    """The evaluated test posts, and those that share their caption with a training post.

    Attributes:
        num_asked: number of test posts with at least two tags, which the evaluation uses.
        post_ids: those whose tag set equals a training post's; int64, in the file's order.
    """

    num_asked: int
    post_ids: NDArray[np.int64]

    @property
    def share(self) -> float:
        """Shared captions over evaluated posts."""
        return len(self.post_ids) / max(1, self.num_asked)


def shared_captions(packed: PackedFile) -> SharedCaptions:
    """The captions that `packed` has in both its test and its training split."""
    hashes, splits = caption_hashes(packed), packed.split_ids()
    is_asked = (splits == SPLITS.index("test")) & (np.diff(packed.offsets.astype(np.int64)) > 1)
    is_shared = np.isin(hashes[is_asked], hashes[splits == SPLITS.index("train")])
    return SharedCaptions(num_asked=int(is_asked.sum()), post_ids=packed.post_id[is_asked][is_shared])


def caption_hashes(packed: PackedFile) -> NDArray[np.uint64]:
    """A hash of each record's tag set, uint64 ``[num_posts]``, independent of tag order.

    It is the sum of 64 mixed bits of each tag. Among ten million different captions, the chance of any collision is
    below one in 300,000.
    """
    hashes = np.empty(packed.num_posts, dtype=np.uint64)
    for start in range(0, packed.num_posts, _CHUNK_POSTS):
        chunk = slice(start, start + _CHUNK_POSTS)
        offsets = packed.offsets[start : start + _CHUNK_POSTS + 1].astype(np.int64)
        lengths = packed.field_lengths[chunk]
        categories = np.repeat(np.tile(np.arange(NUM_CATEGORIES), len(lengths)), lengths.ravel())
        tags = packed.tokens[offsets[0] : offsets[-1]].astype(np.int64) * NUM_CATEGORIES + categories
        sums = np.zeros(len(tags) + 1, dtype=np.uint64)
        np.cumsum(keyed_hash(tags, "captions"), out=sums[1:])
        hashes[chunk] = np.diff(sums[offsets - offsets[0]])
    return hashes
