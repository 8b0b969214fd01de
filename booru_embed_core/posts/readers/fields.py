"""The values of well-formed records of CSV or TSV: Arrow strings, cut out of a block of bytes with numpy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.posts.readers.dialect import Dialect
from booru_embed_core.posts.readers.records import Layout

_QUOTE: Final = ord('"')
_MANY: Final = 16


def values_of(text: bytes, marks: NDArray[np.int64], layout: Layout) -> list[list[pa.Array[Any]]]:
    r"""For each column that is read, its values in all records of `text`: string arrays, one behind the other.

    Args:
        text: well-formed records alone, each with ``\n`` at its end, in UTF-8.
        marks: what `find_marks` finds in it.
        layout: what every record looks like.
    """
    data = np.frombuffer(text, dtype=np.uint8)
    ends, num_quotes = _ends(data, marks, layout.dialect)
    starts = np.append(0, ends[:-1] + 1)[: len(ends)]
    if num_quotes is not None:
        is_quoted = data[starts] == _QUOTE
        starts, ends = starts + is_quoted, ends - is_quoted
        num_quotes = num_quotes.reshape(-1, layout.num_columns)
    # Strings lie side by side: each value is followed by what stands between it and the next one.
    bounds = np.stack([starts, ends], axis=1).astype(np.int32)
    strings: Any = pa.StringArray.from_buffers(max(bounds.size - 1, 0), pa.py_buffer(bounds.data), pa.py_buffer(text))
    first = np.arange(0, bounds.size, 2 * layout.num_columns, dtype=np.int32)
    values = []
    for column in np.flatnonzero(layout.is_read).tolist():
        whole: Any = strings.take(pa.array(first + 2 * column))
        for mark, character in layout.dialect.marks.items():
            whole = pc.replace_substring(whole, mark, character)
        # Two quotes enclose a value; more of them are doubled ones within it.
        doubled = np.flatnonzero(num_quotes[:, column] > 2) if num_quotes is not None else marks[:0]
        values.append(list(_with_single_quotes(whole, doubled)))
    return values


def _ends(
    data: NDArray[np.uint8], marks: NDArray[np.int64], dialect: Dialect
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Where each value ends, and how many quotes it has; None where there are no quotes at all."""
    if not dialect.quote:
        return marks, None
    is_quote = data[marks] == _QUOTE
    quotes_before = np.cumsum(is_quote)
    if not len(marks) or not quotes_before[-1]:
        return marks, None
    is_end = ~is_quote & (quotes_before & 1 == 0)
    return marks[is_end], np.diff(quotes_before[is_end], prepend=0)


def _with_single_quotes(values: pa.Array[Any], rows: NDArray[np.int64]) -> Iterator[pa.Array[Any]]:
    """`values` in pieces, with one quote for each doubled one in `rows` (ascending)."""
    if len(rows) * _MANY > len(values):
        is_doubled = np.zeros(len(values), dtype=np.bool_)
        is_doubled[rows] = True
        single: Any = pc.replace_substring(values.filter(pa.array(is_doubled)), '""', '"')
        yield pc.replace_with_mask(values, pa.array(is_doubled), single)
        return
    begin = 0
    for row in rows.tolist():
        yield values.slice(begin, row - begin)
        yield pc.replace_substring(values.slice(row, 1), '""', '"')
        begin = row + 1
    yield values.slice(begin)
