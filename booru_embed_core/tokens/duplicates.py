"""Captions that occur in two splits: different posts with equal tag sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import NUM_CATEGORIES, SPLITS
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.splits import keyed_hash

_CHUNK_POSTS = 16_384
_TABLE_SIZE = 1 << 24
_LENGTH_FACTORS = (1 << 12) ** np.arange(NUM_CATEGORIES, dtype=np.int64)


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
    """The captions that `packed` has in both its test and its training split.

    Most captions differ from all others in their lengths or in a tag that is not general. These few tags are compared
    first, and whole captions only where they agree.
    """
    splits = packed.split_ids()
    is_asked = (splits == SPLITS.index("test")) & (np.diff(packed.offsets.astype(np.int64)) > 1)
    asked, trained = np.flatnonzero(is_asked), np.flatnonzero(splits == SPLITS.index("train"))
    sketches = _sketches(packed)
    trained = trained[_may_be_in(sketches[trained], sketches[asked])]
    candidates = asked[np.isin(sketches[asked], sketches[trained])]
    is_shared = np.isin(caption_hashes(packed, candidates), caption_hashes(packed, trained))
    return SharedCaptions(num_asked=len(asked), post_ids=packed.post_id[candidates[is_shared]])


def caption_hashes(packed: PackedFile, rows: NDArray[np.int64] | None = None) -> NDArray[np.uint64]:
    """A hash of the tag set of each of `rows` (int64 ``[n]``, None: all), uint64 ``[n]``, independent of tag order.

    It is the sum of 64 mixed bits of each tag. Among ten million different captions, the chance of any collision is
    below one in 300,000.
    """
    if rows is None:
        rows = np.arange(packed.num_posts)
    hashes = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), _CHUNK_POSTS):
        chunk = rows[start : start + _CHUNK_POSTS]
        starts = packed.offsets[chunk].astype(np.int64)
        hashes[start : start + len(chunk)] = _sums_of_tags(packed, starts, packed.field_lengths[chunk], 0)
    return hashes


def _sketches(packed: PackedFile) -> NDArray[np.uint64]:
    """64 bits of each record, ``[num_posts]``, which captions of the same tags share: of its lengths and rare tags."""
    sketches = np.empty(packed.num_posts, dtype=np.uint64)
    for start in range(0, packed.num_posts, _CHUNK_POSTS):
        chunk = slice(start, start + _CHUNK_POSTS)
        lengths = packed.field_lengths[chunk]
        starts = packed.offsets[:-1][chunk].astype(np.int64) + lengths[:, 0]
        keys = lengths.astype(np.int64) @ _LENGTH_FACTORS
        sketches[chunk] = keyed_hash(keys, "lengths") + _sums_of_tags(packed, starts, lengths[:, 1:], 1)
    return sketches


def _sums_of_tags(
    packed: PackedFile, starts: NDArray[np.int64], lengths: NDArray[np.uint16], first_category: int
) -> NDArray[np.uint64]:
    """The sum of 64 mixed bits of each tag, uint64 ``[n]``, of the fields of n records from `first_category` on.

    Args:
        packed: the file.
        starts: where each record's tags of that category start, int64 ``[n]``.
        lengths: uint16 ``[n, fields]``.
        first_category: the category_id of the first field.
    """
    totals = lengths.sum(axis=1, dtype=np.int64)
    ends = np.cumsum(totals)
    num_tags = int(ends[-1]) if len(ends) else 0
    indices = np.repeat(starts - (ends - totals), totals) + np.arange(num_tags)
    category_ids = np.arange(first_category, first_category + lengths.shape[1])
    categories = np.repeat(np.tile(category_ids, len(lengths)), lengths.ravel())
    tags = packed.tokens[indices].astype(np.int64) * NUM_CATEGORIES + categories
    sums = np.zeros(num_tags + 1, dtype=np.uint64)
    np.cumsum(keyed_hash(tags, "captions"), out=sums[1:])
    of_records: NDArray[np.uint64] = sums[ends] - sums[ends - totals]
    return of_records


def _may_be_in(values: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of `values` may be among `wanted`: all that are, and a few per cent of the others (Bloom 1970).

    Only some bits are compared, by a table: `np.isin` would sort all values.
    """
    low_bits = np.uint64(_TABLE_SIZE - 1)
    is_wanted = np.zeros(_TABLE_SIZE, dtype=np.bool_)
    is_wanted[wanted & low_bits] = True
    may_be: NDArray[np.bool_] = is_wanted[values & low_bits]
    return may_be
