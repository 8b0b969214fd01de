"""Room on a disk, asked for before a stage begins, and how many bytes the stages write.

Each number of bytes is a lower bound: a stage that has less room cannot succeed, and one that could is never refused.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from booru_embed_core.errors import DiskError, existing
from booru_embed_core.filesystem import folder_bytes

SMALL_PRODUCT: Final = 1 << 14
"""Of a few tables and a picture: each takes 60 kB and more."""
_OF_COMPRESSED: Final = 0.05
"""Posts take 81% of the bundled export's bytes; other exports hold more fields beside the tags."""
_OF_TEXT: Final = 0.005
_COMPRESSED: Final = (".gz", ".zst", ".bz2", ".xz")
_TEXT: Final = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
_POST_BYTES: Final = 8 + 10 + 8 + 1 + 4
"""Of a post in the packed file: end, lengths of its fields, id, rating, score."""
_FLOAT: Final = 4


def check_room(folder: Path, num_bytes: float, what: str, elsewhere: str = "") -> None:
    """Checks that the disk of `folder` has `num_bytes` left.

    Args:
        folder: where they will be written; it need not exist yet.
        num_bytes: a lower bound.
        what: what they are for, for the message.
        elsewhere: how to choose another folder.

    Raises:
        DiskError: it has less.
    """
    with contextlib.suppress(PermissionError):  # writing tells that
        free = shutil.disk_usage(existing(folder)).free
        if free < num_bytes:
            reason = f"needs at least {_size(num_bytes)} for {what}, and {_size(free)} are free"
            raise DiskError(errno.ENOSPC, folder, elsewhere, reason=reason)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e3:,.0f} kB" if num_bytes < 1e6 else f"{num_bytes / 1e6:,.1f} MB"


def posts_bytes(files: Iterable[tuple[str, int]], are_all_kept: bool) -> float:
    """Of the posts of an export.

    Args:
        files: name and size of each of its files.
        are_all_kept: whether no setting leaves posts out.
    """
    shares = {**dict.fromkeys(_COMPRESSED, _OF_COMPRESSED), **dict.fromkeys(_TEXT, _OF_TEXT)}
    kept = sum(size * shares.get(Path(name).suffix.lower(), 0.0) for name, size in files)
    return max(SMALL_PRODUCT, kept) if are_all_kept else SMALL_PRODUCT


def packed_bytes(num_posts: int) -> float:
    """Of a packed file, without its tokens, whose number is not known before implied tags are dropped."""
    return max(SMALL_PRODUCT, num_posts * _POST_BYTES)


def training_bytes(num_tokens: int, width: int, num_states: int, is_validated: bool) -> float:
    """Of a training's states and checkpoints; the table of token vectors is most of a network, and counts alone.

    Args:
        num_tokens: tokens of the vocabulary.
        width: numbers of a token's vector.
        num_states: states that are kept: vectors, and the two moments of their gradients.
        is_validated: whether the best checkpoint so far is kept beside them.
    """
    table = num_tokens * width * _FLOAT
    return table * (1 + is_validated * (1 + 3 * num_states))


def search_bytes(num_posts: int, dim: int) -> float:
    """Of the vectors of all posts, float16: finished parts and the index. Copies of parts may share their blocks."""
    return max(SMALL_PRODUCT, 2 * num_posts * dim * 2)


def tag_vectors_bytes(num_tags: int, dim: int) -> float:
    """Of the vectors of all tags, float32, which hardly compress."""
    return max(SMALL_PRODUCT, num_tags * dim * _FLOAT / 2)


def still_needed(num_bytes: float, folder: Path) -> float:
    """`num_bytes` without what an interrupted run has left in `folder`."""
    return max(0.0, num_bytes - folder_bytes(folder))
