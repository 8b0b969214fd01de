"""Tag strings to lists of tags: split, old names replaced, each tag of a post once.

Tags are interned: a `TagLists` holds each different tag once, and a code for each use. A test of a tag's spelling runs
once a tag instead of once a use, and Parquet keeps the codes as those of its own dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.posts.interning import Interner, slices_of

_NONE: Final = np.empty(0, dtype=np.int64)
TAG_LIST: Final = pa.list_(pa.field("element", pa.string(), nullable=False))


@dataclass(frozen=True)
class TagLists:
    """The tags of one field of `n` posts: those of post i have the codes ``codes[offsets[i]:offsets[i + 1]]``."""

    offsets: NDArray[np.int32]
    """``[n + 1]``"""
    codes: NDArray[np.int32]
    """Indices of `tags`, one a use."""
    tags: pa.Array[Any]
    """Different strings, in no order; some may be unused."""
    possible_repeats: NDArray[np.int64]
    """Uses (indices of `codes`, ascending) whose posts may have a tag twice; no other post does.

    A use is one of them if its tag's bytes are not above those of the tag before it, or if it was renamed.
    """

    @classmethod
    def split(cls, fields: pa.Array[Any] | pa.ChunkedArray[Any], interner: Interner | None = None) -> TagLists:
        """The lists of `fields`, strings of tags separated by U+0020, none of them null.

        An empty tag stands where a separator begins a field or follows another separator. An `interner` that has seen
        similar fields is faster.
        """
        slices, ends, falls = [], [np.zeros(1, dtype=np.int64)], []
        num_uses = 0
        for chunk in fields.chunks if isinstance(fields, pa.ChunkedArray) else [fields]:
            of_chunk, offsets = slices_of(chunk)
            slices.append(of_chunk)
            falls.append(_falls(of_chunk, offsets) + num_uses)
            ends.append(offsets[1:] + num_uses)
            num_uses += len(of_chunk)
        codes, tags = (interner or Interner()).codes_of(pa.chunked_array(slices, pa.string()))
        return cls(np.concatenate(ends).astype(np.int32), codes, tags, np.concatenate([_NONE, *falls]))

    @classmethod
    def from_arrow(cls, column: pa.Array[Any]) -> TagLists:
        """The lists that `to_arrow` gave, or that Parquet read as dictionary codes; they hold no repeats."""
        lists = cast("pa.ListArray[Any]", column)
        values = cast("pa.DictionaryArray[Any, Any]", lists.flatten())
        offsets = np.zeros(len(lists) + 1, dtype=np.int32)
        np.cumsum(pc.list_value_length(lists).to_numpy(), out=offsets[1:])
        return cls(offsets, values.indices.to_numpy(), values.dictionary, _NONE)

    @property
    def num_uses(self) -> int:
        """Uses of tags by all posts."""
        return len(self.codes)

    def renamed(self, tag_of: Mapping[str, str], names: pa.Array[Any]) -> tuple[TagLists, int]:
        """These lists with ``tag_of[name]`` for each of `names` (its keys), and how many uses were renamed."""
        is_old = pc.is_in(self.tags, value_set=names).to_numpy(zero_copy_only=False)
        if not is_old.any():
            return self, 0
        tags = cast("list[str]", self.tags.to_pylist())
        for index in np.flatnonzero(is_old).tolist():
            tags[index] = tag_of[tags[index]]
        interned = pa.array(tags, pa.string()).dictionary_encode()
        changed = np.flatnonzero(is_old[self.codes])
        return (
            replace(
                self,
                codes=interned.indices.to_numpy()[self.codes],
                tags=interned.dictionary,
                possible_repeats=np.union1d(self.possible_repeats, changed),
            ),
            len(changed),
        )

    def without_repeats(self) -> tuple[TagLists, int]:
        """These lists without empty tags and repeats (the first use of a tag stays), and the number of repeats."""
        repeats = self._repeats()
        keep = np.ones(self.num_uses, dtype=np.bool_)
        keep[repeats] = False
        empty = pc.index(self.tags, pa.scalar("")).as_py()
        num_repeats = len(repeats)
        if empty >= 0:
            is_empty = self.codes == empty
            num_repeats -= int(is_empty[repeats].sum())
            keep &= ~is_empty
        if keep.all():
            return self, num_repeats
        kept_before = np.zeros(len(keep) + 1, dtype=np.int32)
        np.cumsum(keep, out=kept_before[1:])
        return TagLists(kept_before[self.offsets], self.codes[keep], self.tags, _NONE), num_repeats

    def _repeats(self) -> NDArray[np.int64]:
        """Indices of uses of a tag that an earlier use of the same post has, in no order."""
        if not len(self.possible_repeats):
            return self.possible_repeats
        posts = np.unique(np.searchsorted(self.offsets, self.possible_repeats, side="right") - 1)
        starts = self.offsets[posts].astype(np.int64)
        lengths = self.offsets[posts + 1] - starts
        ends = np.cumsum(lengths)
        uses = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
        keys = (np.repeat(np.arange(len(posts)), lengths) << 32) | self.codes[uses]
        ordered = np.sort(keys)
        # Repeats are rare, and a plain sort is several times faster than one that returns indices.
        if not np.any(ordered[1:] == ordered[:-1]):
            return self.possible_repeats[:0]
        return np.delete(uses, np.unique(keys, return_index=True)[1])

    def to_arrow(self) -> pa.Array[Any]:
        """A list array of dictionary-coded strings, without nulls; the type is that of `TAG_LIST`, coded."""
        values = pa.DictionaryArray.from_arrays(self.codes, self.tags, safe=False)
        element = pa.field("element", values.type, nullable=False)
        offsets = pa.py_buffer(np.ascontiguousarray(self.offsets).data)
        return pa.Array.from_buffers(pa.list_(element), len(self.offsets) - 1, [None, offsets], children=[values])


def _falls(slices: pa.Array[Any], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Uses whose slice is not above the one before it in the same field; no other field repeats a tag.

    Exports have tags in byte order, so one comparison a use shows that no tag repeats.
    """
    if len(slices) < 2:
        return _NONE
    is_fall: Any = pc.less_equal(slices[1:], slices[:-1])
    bits = np.frombuffer(is_fall.buffers()[1], dtype=np.uint8)
    falls = np.unpackbits(bits, count=is_fall.offset + len(is_fall), bitorder="little")[is_fall.offset :]
    starts = offsets[(offsets > 0) & (offsets < len(slices))]
    falls[starts - 1] = 0
    return 1 + np.flatnonzero(falls.view(np.bool_))
