"""How far the use of tags has drifted: two counts of the same category, compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

NUM_MOVED: Final = 3
"""Tags that a `Drift` names."""


class Moved(NamedTuple):
    """A tag with its share of the category's uses before and after."""

    tag: str
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far the shares of a category's tags have moved.

    Attributes:
        distance: total variation, 0 to 1: the share of uses that would have to change tags to turn one distribution
            into the other.
        by_chance: upper bound on the distance to expect between two samples of posts of the same site.
        moved: the tags that moved most, the largest change first.
    """

    distance: float
    by_chance: float
    moved: tuple[Moved, ...]


def share_drift(before: pa.Table, after: pa.Table) -> Drift:
    """The drift from `before` to `after`, tables of one category as `frequency.FREQUENCY_SCHEMA`.

    Over all tags t, with shares p of n uses before, q of m uses after, and π of both together:

        distance  = ½ Σ |p_t - q_t|
        by_chance = ½ Σ min(2 π_t, √(π_t / n + π_t / m))

    A post has a tag at most once, so the variance of a tag's count is at most its expectation. E|p - q| is at most the
    root of the variance of p - q (Jensen), and at most 2 π for any sample. Without this bound, a long tail of tags that
    are used once, such as artists, would pass for drift. A category that is empty on one side only has moved by 1.
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
    by_chance = min(1.0, float(expected.sum() / 2))  # rounding may lift a sum of shares above 1
    most = np.argsort(-np.abs(p - q), kind="stable")[:NUM_MOVED].tolist()
    moved = tuple(Moved(str(tags.dictionary[tag]), float(p[tag]), float(q[tag])) for tag in most if p[tag] != q[tag])
    return Drift(distance=float(np.abs(p - q).sum() / 2), by_chance=by_chance, moved=moved)


def _counts(codes: NDArray[np.int32], table: pa.Table, num_tags: int) -> NDArray[np.float64]:
    counts = np.zeros(num_tags)
    np.add.at(counts, codes, table.column("count").to_numpy())
    return counts
