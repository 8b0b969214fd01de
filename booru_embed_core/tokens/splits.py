"""Splits posts into training, validation and test by a keyed hash of the post id: stable when the export grows."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import SPLITS
from booru_embed_core.settings import TokensSettings

_CHUNK_POSTS: Final = 1 << 15
"""Their hashes stay in the processor's cache."""
_GOLDEN_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR: Final = np.uint64(0x94D049BB133111EB)


def split_ids(post_ids: NDArray[np.int64], settings: TokensSettings) -> NDArray[np.uint8]:
    """The index into `SPLITS` of each of `post_ids` (int64 `[num_posts]`), uint8 `[num_posts]`.

    A post's hash h is uniform in [0, 2^64): test if h < test_share, validation if h >= 1 - validation_share (as shares
    of 2^64), else training. Changing one share never moves posts of the other.
    """
    splits = np.full(len(post_ids), SPLITS.index("train"), dtype=np.uint8)
    for start in range(0, len(post_ids), _CHUNK_POSTS):
        chunk = splits[start : start + _CHUNK_POSTS]
        hashes = keyed_hash(post_ids[start : start + _CHUNK_POSTS], settings.split_key)
        chunk[hashes < np.uint64(int(settings.test_share * 2**64))] = SPLITS.index("test")
        if settings.validation_share > 0:
            chunk[hashes >= np.uint64(2**64 - int(settings.validation_share * 2**64))] = SPLITS.index("validation")
    return splits


def keyed_hash(post_ids: NDArray[np.int64], key: str) -> NDArray[np.uint64]:
    """64 well-mixed bits of each id: the splitmix64 finaliser of the id, offset by 64 bits of SHA-256 of `key`.

    Steele, Lea and Flood: Fast splittable pseudorandom number generators (OOPSLA 2014), mixing variant 13 of Stafford.
    """
    seed = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))
    mixed = (post_ids.astype(np.uint64) ^ seed) + _GOLDEN_GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST_FACTOR
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND_FACTOR
    return mixed ^ (mixed >> np.uint64(31))
