"""How far tags are used otherwise than they were: two counts of the same category, compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Moved(NamedTuple):
    """A tag, with its share of the category's uses before and after."""

    tag: str
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far the shares of a category's tags have moved.

    Attributes:
        distance: total variation, 0 to 1: the share of the uses that would have to be given to other tags to make one
            distribution out of the other.
        by_chance: at most so much is expected of two samples of posts from the same site.
        moved: the tags that moved most, these first.
    """

    distance: float
    by_chance: float
    moved: tuple[Moved, ...]


def share_drift(before: pa.Table, after: pa.Table, num_moved: int = 3) -> Drift:
    """The drift from `before` to `after`, tables of one category as `frequency.FREQUENCY_SCHEMA`.

    With shares p of n uses and q of m uses, and π of both together, over all tags t:

        distance  = ½ Σ |p_t - q_t|
        by_chance = ½ Σ min(2 π_t, √(π_t / n + π_t / m))

    A post has a tag at most once, so that the variance of a tag's count is at most its expectation; E|p - q| is at most
    the root of that of p - q (Jensen), and at most 2 π whatever is drawn. Without it a long tail of tags that are used
    once, such as artists, would pass for drift. A category that is empty on one side alone has moved by 1.
    """
    tags = pa.concat_tables([before, after]).column("tag").combine_chunks().dictionary_encode()
    codes, num_tags = tags.indices.to_numpy(), len(tags.dictionary)
    old = _counts(codes[: before.num_rows], before, num_tags)
    new = _counts(codes[before.num_rows :], after, num_tags)
    num_old, num_new = old.sum(), new.sum()
    if not (num_old and num_new):
        return Drift(distance=float(num_old != num_new), by_chance=0.0, moved=())
    p, q, both = old / num_old, new / num_new, (old + new) / (num_old + num_new)
    expected = np.minimum(2 * both, np.sqrt(both / num_old + both / num_new))
    by_chance = min(1.0, float(expected.sum() / 2))  # rounded, a sum of shares may be a little more
    most = np.argsort(-np.abs(p - q), kind="stable")[:num_moved].tolist()
    moved = tuple(Moved(str(tags.dictionary[tag]), float(p[tag]), float(q[tag])) for tag in most if p[tag] != q[tag])
    return Drift(distance=float(np.abs(p - q).sum() / 2), by_chance=by_chance, moved=moved)


def _counts(codes: NDArray[np.int32], table: pa.Table, num_tags: int) -> NDArray[np.float64]:
    counts = np.zeros(num_tags)
    np.add.at(counts, codes, table.column("count").to_numpy())
    return counts
