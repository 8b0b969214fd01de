"""Held-out tasks: which tags of a post a scorer sees, and which ones it has to find.

Every use of a tag gets a 64-bit number that depends only on post id, tag index and seed; a post hides the tags with the
smallest numbers. The choice is therefore independent of the order and the selection of posts, and the tag that
``"one"`` hides is among those that ``"half"`` hides:

    post 11: bow 7f…, hat 03…, smile c2…, wings 41…    one: hat    half: hat, wings
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, caption_matrix
from booru_embed_core.tokens.splits import keyed_hash

if TYPE_CHECKING:
    from booru_embed_core.settings import EvaluationSettings
    from booru_embed_core.tokens.packed_file import PackedFile

Hide: TypeAlias = Literal["one", "half"]
HIDES: Final[tuple[Hide, ...]] = ("one", "half")

MIN_TAGS: Final = 2
"""A post with fewer tags has no visible or no hidden tag."""

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: its multiples lie far from each other."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Posts with some tags hidden.

    Attributes:
        visible: tags that a scorer sees, [n, num_tags].
        hidden: tags that it has to find, at least one per post, [n, num_tags].
        filtered: tags that are not ranked: the visible tags, all unknown tokens, and implied tags if they are left out.
        post_index: int64[n], the rows of the captions that are kept, ascending.
    """

    visible: CaptionMatrix
    hidden: CaptionMatrix
    filtered: CaptionMatrix
    post_index: NDArray[np.int64]

    @property
    def num_posts(self) -> int:
        """Number of posts with hidden tags."""
        return len(self.post_index)


def hold_out(
    captions: CaptionMatrix,
    post_ids: NDArray[np.int64],
    hide: Hide,
    seed: int,
    is_unknown: NDArray[np.bool_] | None = None,
) -> HeldOut:
    """Hides one tag, or half of the tags rounded down, of each caption; posts with fewer than two tags are left out.

    Unknown tokens do not count as tags: they stay visible.

    Args:
        captions: [num_posts, num_tags].
        post_ids: int64[num_posts].
        hide: ``"one"`` or ``"half"``.
        seed: another seed hides other tags.
        is_unknown: bool[num_tags], ``vocab.is_unknown``; None if there is no unknown token.

    Raises:
        ValueError: `post_ids` does not have one id for each caption.
    """
    if len(post_ids) != captions.shape[0]:
        raise ValueError(f"{len(post_ids)} post ids for {captions.shape[0]} captions; give one id for each caption")
    if is_unknown is None:
        is_unknown = np.zeros(captions.shape[1], dtype=np.bool_)
    post_index = np.flatnonzero(_num_known(captions, is_unknown) >= MIN_TAGS).astype(np.int64)
    kept = captions[post_index]
    kept.sort_indices()
    lengths = _num_known(kept, is_unknown)
    rows = np.repeat(np.arange(len(lengths)), np.diff(kept.indptr))
    # Unknown tokens are sorted to the end of their post, which is never hidden.
    order = np.lexsort((_numbers(post_ids[post_index][rows], kept.indices, seed), is_unknown[kept.indices], rows))
    ranks = np.empty(kept.nnz, dtype=np.int64)
    ranks[order] = np.arange(kept.nnz) - kept.indptr[rows]
    num_hidden = np.ones_like(lengths) if hide == "one" else lengths // 2
    is_hidden = ranks < num_hidden[rows]
    visible = _where(kept, rows, ~is_hidden)
    filtered = visible
    if is_unknown.any():
        unknown = np.tile(np.flatnonzero(is_unknown), len(post_index))
        indptr = np.arange(len(post_index) + 1) * int(is_unknown.sum())
        filtered = visible.maximum(caption_matrix(unknown, indptr, captions.shape[1])).tocsr()
    return HeldOut(visible=visible, hidden=_where(kept, rows, is_hidden), filtered=filtered, post_index=post_index)


def keep_tags(
    captions: CaptionMatrix,
    post_ids: NDArray[np.int64],
    num_visible: int,
    seed: int,
    is_unknown: NDArray[np.bool_] | None = None,
) -> CaptionMatrix:
    """`num_visible` tags of each caption that has more, [at most num_posts, num_tags]: what `hold_out` hides last.

    Unknown tokens are left out.
    """
    unknown = np.zeros(captions.shape[1], dtype=np.bool_) if is_unknown is None else is_unknown
    enough = np.flatnonzero(_num_known(captions, unknown) > num_visible)
    kept = captions[enough]
    rows = np.repeat(np.arange(len(enough)), np.diff(kept.indptr))
    numbers = _numbers(post_ids[enough][rows], kept.indices, seed)
    order = np.lexsort((~numbers, unknown[kept.indices], rows))
    ranks = np.empty(kept.nnz, dtype=np.int64)
    ranks[order] = np.arange(kept.nnz) - kept.indptr[rows]
    return _where(kept, rows, ranks < num_visible)


def split_halves(
    captions: CaptionMatrix, post_ids: NDArray[np.int64], seed: int, is_unknown: NDArray[np.bool_] | None = None
) -> tuple[CaptionMatrix, CaptionMatrix]:
    """Two halves of each post with two tags or more, row by row; they are disjoint and together make the caption.

    Unknown tokens go to the first half.
    """
    held_out = hold_out(captions, post_ids, "half", seed, is_unknown)
    return held_out.visible, held_out.hidden


def sample_posts(post_ids: NDArray[np.int64], max_posts: int, seed: int) -> NDArray[np.int64]:
    """Ascending int64 indices into `post_ids` of at most `max_posts` posts, chosen only by post id and `seed`."""
    if len(post_ids) <= max_posts:
        return np.arange(len(post_ids), dtype=np.int64)
    return np.sort(np.argsort(keyed_hash(post_ids, f"sampled posts {seed}"), kind="stable")[:max_posts])


def sample_rows(
    packed: PackedFile, split: str, settings: EvaluationSettings, num_tags: int | None = None
) -> NDArray[np.int64]:
    """Ascending int64 rows of `packed` of at most ``settings.max_posts`` posts of `split` (`sample_posts`).

    If each of `num_tags` tags is scored, at most ``settings.max_scores`` scores are.
    """
    rows = rows_of_split(packed, split)
    most = settings.max_posts if num_tags is None else max_scored_posts(settings, num_tags)
    return rows[sample_posts(packed.post_id[rows], most, settings.seed)]


def max_scored_posts(settings: EvaluationSettings, num_tags: int) -> int:
    """Posts of a task of which `num_tags` tags each are scored."""
    return max(1, min(settings.max_posts, settings.max_scores // max(1, num_tags)))


def _num_known(captions: CaptionMatrix, is_unknown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of tags of each caption without its unknown tokens, int64[num_posts]."""
    before = np.concatenate(([0], np.cumsum(~is_unknown[captions.indices])))
    return np.diff(before[captions.indptr])


def _numbers(post_ids: NDArray[np.int64], tags: NDArray[np.integer], seed: int) -> NDArray[np.uint64]:
    """64 well-mixed bits for each pair of a post id and a tag index."""
    of_post = keyed_hash(post_ids, f"held-out posts {seed}")
    return keyed_hash((of_post + tags.astype(np.uint64) * _GOLDEN).view(np.int64), "held-out tags")


def _where(captions: CaptionMatrix, rows: NDArray[np.int64], keep: NDArray[np.bool_]) -> CaptionMatrix:
    counts = np.bincount(rows[keep], minlength=captions.shape[0])
    return caption_matrix(captions.indices[keep], np.concatenate(([0], np.cumsum(counts))), captions.shape[1])
