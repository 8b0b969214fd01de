"""Which tags follow from others, such as ``hat`` from ``witch_hat``; what an implied tag implies is implied too.

Tags are indices into ``Vocab.tags``. Nothing but numpy is needed, since serving reads implications too. Where they come
from is up to ``implication_sources``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

_MAX_PAIRS: Final = 1 << 24
"""Pairs of the closure; a site's table has some hundred thousand."""
_MARKED_BYTES: Final = 1 << 23
"""Posts times tags that are marked at once, a byte each."""


@dataclass(frozen=True, eq=False)
class Implications:
    """The tags that each tag implies, directly or by a chain.

    Attributes:
        offsets: int64 ``[num_tags + 1]``.
        targets: int64 ``[num_pairs]``: tag t implies ``targets[offsets[t]:offsets[t + 1]]``, ascending, never t itself.
    """

    offsets: NDArray[np.int64]
    targets: NDArray[np.int64]

    @classmethod
    def of_pairs(cls, causes: NDArray[np.integer], effects: NDArray[np.integer], num_tags: int) -> Self:
        """The closure of the pairs ``causes[i]`` → ``effects[i]``, each ``[n]``; a tag that implies itself is skipped.

        Tags may imply each other: then each implies the other, and both imply the same.

        Raises:
            ValueError: a pair names no tag, or the closure has more than 16,777,216 pairs.
        """
        direct = np.unique(causes.astype(np.int64) * num_tags + effects.astype(np.int64))
        for axis in (causes, effects):
            if len(axis) and not 0 <= int(axis.min()) <= int(axis.max()) < num_tags:
                raise ValueError(f"an implication is of tag {int(axis.max())} of {num_tags}; build the vocab again")
        direct = direct[direct // max(1, num_tags) != direct % max(1, num_tags)]
        one_step = cls._of_keys(direct, num_tags)
        closed = newest = direct
        while len(newest):
            starts, ends = np.divmod(newest, num_tags)
            reached, lengths = one_step.effects_of_each(ends)
            if len(reached) > _MAX_PAIRS:
                raise ValueError(f"implications lead to more than {_MAX_PAIRS:,} pairs of tags; correct their table")
            keys = np.unique(np.repeat(starts, lengths) * num_tags + reached)
            newest = np.setdiff1d(keys, closed, assume_unique=True)
            newest = newest[newest // num_tags != newest % num_tags]
            closed = np.union1d(closed, newest)
        return cls._of_keys(closed, num_tags)

    @classmethod
    def none(cls, num_tags: int) -> Self:
        """No implications between `num_tags` tags."""
        return cls(np.zeros(num_tags + 1, np.int64), np.empty(0, np.int64))

    @classmethod
    def _of_keys(cls, keys: NDArray[np.int64], num_tags: int) -> Self:
        """Those of ``cause * num_tags + effect``, ascending."""
        causes, effects = np.divmod(keys, max(1, num_tags))
        return cls(np.concatenate([[0], np.cumsum(np.bincount(causes, minlength=num_tags))]), effects)

    @property
    def num_tags(self) -> int:
        """Number of tags, with or without effects."""
        return len(self.offsets) - 1

    @property
    def num_pairs(self) -> int:
        """Number of pairs a → b of the closure."""
        return len(self.targets)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Cause and effect of each pair, int64 ``[num_pairs, 2]``, ascending."""
        return np.stack([self._causes, self.targets], axis=1)

    @cached_property
    def sha256(self) -> str:
        """SHA-256, in hex, of all pairs."""
        return hashlib.sha256(np.ascontiguousarray(self.pairs, "<i8").data).hexdigest()

    @cached_property
    def _causes(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(self.num_tags), np.diff(self.offsets))

    def among(self, num_tags: int) -> Implications:
        """Those between the first `num_tags` tags; chains through others are kept."""
        of_first = slice(None, self.offsets[num_tags])
        causes, effects = self._causes[of_first], self.targets[of_first]
        keys = causes * num_tags + effects
        return Implications._of_keys(keys[effects < num_tags], num_tags)

    def effects(self, tag: int) -> NDArray[np.int64]:
        """The tags that `tag` implies, int64, ascending."""
        return self.targets[self.offsets[tag] : self.offsets[tag + 1]]

    def effects_of_each(self, tags: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The effects of each of `tags` ``[n]``, one after the other, and their numbers, int64 ``[n]``."""
        starts = self.offsets[tags]
        lengths = self.offsets[np.asarray(tags) + 1] - starts
        ends = np.cumsum(lengths)
        return self.targets[np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())], lengths

    def implied_by(self, tags: NDArray[np.integer]) -> NDArray[np.int64]:
        """All tags that one of `tags` implies, int64, ascending, each once; some may be among `tags`."""
        return np.unique(self.effects_of_each(tags)[0])

    def restored(self, tags: NDArray[np.integer]) -> NDArray[np.int64]:
        """`tags` and all that they imply, int64, ascending, each once."""
        return np.union1d(np.asarray(tags, np.int64), self.implied_by(tags))

    def reduced(self, tags: NDArray[np.integer]) -> NDArray[np.int64]:
        """`tags` without those that another of them implies, in their order, int64.

        Of tags that imply each other, the one with the lowest index stays. `restored` gives at least `tags` back.
        """
        return np.asarray(np.asarray(tags)[self.is_kept(tags, np.array([len(tags)]))], np.int64)

    def is_kept(self, tags: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which tags of many sets `reduced` keeps, bool ``[T]``.

        Args:
            tags: the tags of all sets, set after set, ``[T]``.
            lengths: number of tags of each set.
        """
        tags = np.asarray(tags, np.int64)
        keep = np.ones(len(tags), np.bool_)
        if not self.num_pairs or not len(tags):
            return keep
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        step = max(1, _MARKED_BYTES // self.num_tags)
        marked = np.zeros(min(step, len(lengths)) * self.num_tags, np.bool_)
        for first in range(0, len(lengths), step):
            end = min(first + step, len(lengths))
            uses = slice(offsets[first], offsets[end])
            rows = np.repeat(np.arange(end - first) * self.num_tags, lengths[first:end])
            replaced, num_replaced = self._replacing.effects_of_each(tags[uses])
            places = np.repeat(rows, num_replaced) + replaced
            marked[places] = True
            keep[uses] = ~marked[rows + tags[uses]]
            marked[places] = False
        return keep

    @cached_property
    def _replacing(self) -> Implications:
        """The effects that a tag replaces in a set: of two tags that imply each other, the first replaces the second.

        A strict order, so some tag of each set remains, and it implies what it has replaced.
        """
        forth = self._causes * self.num_tags + self.targets
        back = self.targets * self.num_tags + self._causes
        is_second = np.isin(back, forth) & (self.targets < self._causes)
        return Implications._of_keys(forth[~is_second], self.num_tags)
