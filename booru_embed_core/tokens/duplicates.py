"""Captions that occur in two splits: different posts with equal tag sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import NUM_CATEGORIES, SPLITS
from booru_embed_core.tokens.packed_file import PackedFile, record_lengths
from booru_embed_core.tokens.splits import keyed_hash

_CHUNK_POSTS: Final = 16_384
_TABLE_SIZE: Final = 1 << 24
_LENGTH_FACTORS: Final = np.int64(1 << 12) ** np.arange(NUM_CATEGORIES, dtype=np.int64)
_SUM_FACTORS: Final = np.uint64(1_000_003) ** np.arange(NUM_CATEGORIES, dtype=np.uint64)


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

    Nearly all captions differ from all others in the number of tags of a category or in the sum of their ids. These are
    compared first, and whole captions only where they agree.
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
        lengths = packed.field_lengths[chunk]
        of_record = record_lengths(lengths).astype(np.int64)
        ends = np.cumsum(of_record)
        first = packed.offsets[chunk].astype(np.int64) - (ends - of_record)
        indices = np.repeat(first, of_record) + np.arange(ends[-1])
        categories = np.repeat(np.tile(np.arange(NUM_CATEGORIES), len(chunk)), lengths.ravel())
        tags = packed.tokens[indices].astype(np.int64) * NUM_CATEGORIES + categories
        hashes[start : start + len(chunk)] = _sums(keyed_hash(tags, "captions"), of_record)
    return hashes


def _sketches(packed: PackedFile) -> NDArray[np.uint64]:
    """64 bits of each record, ``[num_posts]``, which captions of the same tags share.

    They mix the number of tags and the sum of the local ids of each category, which one running sum gives.
    """
    sketches = np.empty(packed.num_posts, dtype=np.uint64)
    for start in range(0, packed.num_posts, _CHUNK_POSTS):
        chunk = slice(start, start + _CHUNK_POSTS)
        lengths = packed.field_lengths[chunk].astype(np.int64)
        offsets = packed.offsets[start : start + _CHUNK_POSTS + 1]
        sums = _sums(packed.tokens[offsets[0] : offsets[-1]], lengths.ravel()).reshape(lengths.shape)
        sketches[chunk] = keyed_hash(lengths @ _LENGTH_FACTORS, "lengths") + keyed_hash(sums @ _SUM_FACTORS, "sums")
    return sketches


def _sums(values: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The sums of successive runs of `values` of these `lengths` (int64 ``[n]``, in all as many), uint64 ``[n]``."""
    running = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values, dtype=np.uint64, out=running[1:])
    at_ends = running[np.cumsum(lengths)]
    return np.diff(at_ends, prepend=np.uint64(0))


def _may_be_in(values: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of `values` may be among `wanted`: all that are, and a few per cent of the others (Bloom 1970).

    Only some bits are compared, by a table: `np.isin` would sort all values.
    """
    low_bits = np.uint64(_TABLE_SIZE - 1)
    is_wanted = np.zeros(_TABLE_SIZE, dtype=np.bool_)
    is_wanted[wanted & low_bits] = True
    may_be: NDArray[np.bool_] = is_wanted[values & low_bits]
    return may_be
