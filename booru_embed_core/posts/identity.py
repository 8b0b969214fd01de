"""Whose ids are whose: ids of several sites in one table, and ids of posts that have none.

An id is int64. In an export of one source it is the site's own. In an export of named sites the 13 bits above the
lowest 50 hold the site's number, which follows from its name alone: adding a site changes no other id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import SITE_BITS
from booru_embed_core.posts.validation import ExportError

_NUM_SITES: Final[int] = 2 ** (63 - SITE_BITS) - 1


def site_number(site: str | None) -> int:
    """The number of `site`, from 1 to 8191; 0 where posts are of no named site."""
    if site is None:
        return 0
    digest = int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "big")
    return digest % _NUM_SITES + 1


def check_sites(sites: Iterable[str | None]) -> dict[str, int]:
    """The numbers of `sites` by their names.

    Raises:
        ExportError: two of them have the same number.
    """
    numbers: dict[int, str] = {}
    for site in dict.fromkeys(sites):
        if site is not None and numbers.setdefault(site_number(site), site) != site:
            other = numbers[site_number(site)]
            raise ExportError(f"[[posts.source]] site {site!r} has the number of {other!r}; choose another name")
    return {site: number for number, site in numbers.items()}


def global_ids(ids: NDArray[np.int64], site: str | None) -> NDArray[np.int64]:
    """The ids in the table of the posts with these `ids` on `site`, int64 `[n]`."""
    return ids | (site_number(site) << SITE_BITS)


def split_id(post_id: int) -> tuple[int, int]:
    """The number of the site (0 for none) and the id there of the post `post_id`."""
    return (post_id >> SITE_BITS, post_id & (2**SITE_BITS - 1)) if post_id >= 0 else (0, post_id)


def hashed_ids(names: Sequence[str]) -> NDArray[np.int64]:
    """Ids below 2**50 of posts that are known by `names`, int64 `[n]`: the same name has the same id everywhere."""
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names)
    words = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
    return (words >> np.uint64(64 - SITE_BITS)).astype(np.int64)
