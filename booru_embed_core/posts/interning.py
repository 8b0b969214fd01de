"""The tags of many fields as codes of one dictionary, without a copy of their bytes.

A field is a string of tags, each separated from the next by U+0020. A *slice* is a tag with the separator behind it;
the last one of a field has none. Slices lie side by side in the fields' own bytes, so an array of them needs no more
than their ends::

    fields  "b a" "" "c"
    bytes    b ␣ a c
    slices  "b " "a" "c"    ends 2 3 4    uses 0 2 2 3

Slices are hashed as they are. The few different ones are then cut to tags.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.schema import TAG_SEPARATOR

_SEPARATOR: Final = ord(TAG_SEPARATOR)
_WINDOW_BYTES: Final = 1 << 18
"""The bytes that are looked at together; the look stays within a core's cache."""
_NUM_FREQUENT: Final = 4096
"""A table of twice as many no longer fits; half as many are found less often."""
_MIN_SLICES: Final = 4 * _NUM_FREQUENT
_MIN_USES: Final = 16
"""Uses of each slice from which on a second look-up pays for rare ones."""
_SAMPLE_USES: Final = 1 << 18


def bytes_of(fields: Any) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Where each of `fields` begins and the last one ends, int32 ``[n + 1]`` from 0, and their bytes."""
    _, offsets, content = fields.buffers()
    if not len(fields) or offsets is None or content is None:
        return np.zeros(len(fields) + 1, dtype=np.int32), np.empty(0, dtype=np.uint8)
    bounds = np.frombuffer(offsets, dtype=np.int32)[fields.offset : fields.offset + len(fields) + 1]
    return bounds - bounds[0], np.frombuffer(content, dtype=np.uint8)[bounds[0] : bounds[-1]]


def slices_of(fields: pa.Array[Any]) -> tuple[pa.Array[Any], NDArray[np.int64]]:
    """The slices of `fields` (strings, none of them null), and how many there are before each field and the end.

    The numbers are int64 ``[n + 1]``. A field that ends with a separator has no empty slice behind it.
    """
    bounds, content = bytes_of(fields)
    ends = _ends(bounds, content)
    slices = pa.Array.from_buffers(
        pa.string(), len(ends) - 1, [None, pa.py_buffer(ends.data), pa.py_buffer(content.data)]
    )
    return slices, np.searchsorted(ends, bounds)


class Interner:
    """Gives slices their codes, one group of fields after another.

    A table of all slices of a group is larger than a core's cache, and most look-ups in it wait for memory. The slices
    that are frequent at the end of one group are four of five in the next: there they are looked up first, in a table
    that fits.
    """

    def __init__(self) -> None:
        self._frequent: pa.Array[Any] | None = None

    def codes_of(self, slices: pa.ChunkedArray[Any]) -> tuple[NDArray[np.int32], pa.Array[Any]]:
        """The code of each of `slices`, int32, and the tags that the codes stand for, each once.

        Codes depend on the groups alone, not on their chunks.
        """
        codes, different = _encoded(slices) if self._frequent is None else _encoded_after(self._frequent, slices)
        self._frequent = _most_frequent(codes, different)
        tags: Any = pc.ascii_rtrim(different, characters=TAG_SEPARATOR).dictionary_encode()
        # Arrow's `take` is three times faster than numpy's with indices of 32 bits.
        indices: Any = pa.array(codes)
        return pc.take(tags.indices, indices, boundscheck=False).to_numpy(), tags.dictionary


def _encoded(slices: pa.ChunkedArray[Any]) -> tuple[NDArray[np.int32], Any]:
    """The code of each of `slices`, and the different ones in the order of their first uses."""
    coded: list[Any] = slices.dictionary_encode().chunks
    if not coded:
        return np.empty(0, dtype=np.int32), pa.array([], pa.string())
    return np.concatenate([chunk.indices.to_numpy() for chunk in coded]), coded[-1].dictionary


def _encoded_after(frequent: pa.Array[Any], slices: pa.ChunkedArray[Any]) -> tuple[NDArray[np.int32], Any]:
    """The code of each of `slices`, and `frequent` with the other ones behind it."""
    found: Any = pc.index_in(slices, value_set=frequent)
    other_codes, others = _encoded(slices.filter(found.is_null()))
    codes = np.concatenate([np.empty(0, dtype=np.int32), *(chunk.fill_null(-1).to_numpy() for chunk in found.chunks)])
    codes[codes < 0] = other_codes + len(frequent)
    return codes, pa.concat_arrays([frequent, others])


def _most_frequent(codes: NDArray[np.int32], slices: Any) -> Any:
    """The most used of `slices` by the last ones of their `codes`; None where a table of them would not pay."""
    if len(slices) <= _MIN_SLICES or len(codes) < _MIN_USES * len(slices):
        return None
    counts = np.bincount(codes[-_SAMPLE_USES:], minlength=len(slices))
    return slices.take(pa.array(np.argsort(-counts, kind="stable")[:_NUM_FREQUENT]))


def _ends(bounds: NDArray[np.int32], content: NDArray[np.uint8]) -> NDArray[np.int32]:
    """0 and the end of each slice of the fields with these `bounds` in `content`, int32, ascending."""
    last_bytes = bounds[1:] - 1
    starts = np.arange(0, len(content), _WINDOW_BYTES)
    cuts = np.searchsorted(last_bytes, np.append(starts, len(content)))
    is_last = np.empty(_WINDOW_BYTES + _WINDOW_BYTES // 8, dtype=np.bool_)
    ends = [np.zeros(1, dtype=np.int32)]
    for start, first, end in zip(starts.tolist(), cuts[:-1], cuts[1:], strict=True):
        window = content[start : start + _WINDOW_BYTES]
        num_bytes = len(window)
        np.equal(window, _SEPARATOR, out=is_last[:num_bytes])
        is_last[last_bytes[first:end] - start] = True
        # numpy finds true values two to three times faster where they are more than a tenth, so some more are added.
        num_ends = int(np.count_nonzero(is_last[:num_bytes]))
        num_marks = num_bytes + max(0, (num_bytes - 10 * num_ends) // 9 + 1)
        is_last[num_bytes:num_marks] = True
        ends.append((np.flatnonzero(is_last[:num_marks])[:num_ends] + (start + 1)).astype(np.int32))
    return np.concatenate(ends)
