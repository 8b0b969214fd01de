"""Where the records of a block of CSV or TSV begin and end, and which are not well formed; numpy over bytes.

A quote opens or closes, so a physical line with an odd number of quotes begins or ends a record of several lines:

====  ==================  ==============================================
line  quotes              record
====  ==================  ==============================================
1     none or even        line 1
2     odd                 lines 2 to 4, if they form a record; else line 2
3     none or even
4     odd
====  ==================  ==============================================

One stray quote must not swallow posts. So a record has at most `MAX_RECORD_LINES` lines and `MAX_LINE_BYTES` bytes, and
none of its line breaks may be in a column that is read. Where these lines form no record, the bad record ends before
the next line that looks like the start of one: a number where the id stands, and at least a quarter of the delimiters.
Every line is looked at a fixed number of times.
"""

from __future__ import annotations

import csv
import itertools
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.posts.readers.dialect import JOINT, Dialect
from booru_embed_core.posts.readers.lines import is_utf8
from booru_embed_core.posts.validation import MAX_LINE_BYTES

MAX_RECORD_LINES: Final = 10_000

_NEWLINE, _RETURN, _QUOTE = b'\n\r"'
_NUMBER: Final = re.compile(r"-?[0-9]{1,19}(\.0+)?")
_JOINT: Final = np.frombuffer(JOINT, dtype=np.uint8)


@dataclass(frozen=True)
class Layout:
    """What every record of a file looks like."""

    num_columns: int
    id_column: int | None
    """The column that holds a number in every record; None if there is none."""
    is_read: tuple[bool, ...]
    """For each column, whether its values are read: they hold no line break."""
    dialect: Dialect

    def has_id(self, line: bytes) -> bool:
        """Whether `line`, read as the start of a record, has a number where the id stands."""
        return self.id_column is None or self.id_of(line) is not None

    def id_of(self, line: bytes) -> int | None:
        """The id of `line`, read as the start of a record; None if it is no number."""
        if self.id_column is None:
            return None
        text = line.decode("utf-8", errors="replace").replace("\r", " ")
        try:
            fields = next(csv.reader([text], delimiter=self.dialect.delimiter)) if '"' in text else None
        except (csv.Error, StopIteration):
            return None
        fields = text.split(self.dialect.delimiter, self.id_column + 1) if fields is None else fields
        value = fields[self.id_column] if self.id_column < len(fields) else ""
        return int(value.partition(".")[0]) if _NUMBER.fullmatch(value) else None

    def may_hold_returns(self, record: bytes) -> bool:
        """Whether the carriage returns within `record` are all in quotes, in columns that are not read."""
        try:
            fields = self.dialect.fields(record.decode("utf-8", errors="replace").removesuffix("\r"))
        except csv.Error:
            return False
        return not any("\r" in field for field, is_read in zip(fields, self.is_read, strict=False) if is_read)


@dataclass(frozen=True)
class Records:
    """The records of one block; all arrays are `[records]`."""

    first_line: NDArray[np.int64]
    """Each record's first line, which counts the block's lines from 0."""
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    """The bytes of each record, without its last ``\\n``."""
    is_bad: NDArray[np.bool_]
    is_blank: NDArray[np.bool_]
    """Empty lines, which are no records after all."""
    has_return: NDArray[np.bool_]
    """Whether a record ends with ``\\r\\n``."""
    has_inner_returns: bool
    """Whether a well-formed record has a carriage return that ends no line."""
    num_lines: int
    """The lines of all records."""
    num_bytes: int
    """The bytes of all records; what follows belongs to a record whose end is not in the block."""

    @property
    def num_lines_of(self) -> NDArray[np.int64]:
        """How many physical lines each record has."""
        return np.diff(self.first_line, append=self.num_lines)


def find_records(block: bytes, layout: Layout, *, is_last: bool = True) -> Records:
    """The records of `block`, whole lines from the start of a record on; unless `is_last`, more lines follow it."""
    lines = _Lines(block, layout)
    continues, is_bad, num_lines = lines.resolved(is_last=is_last)
    ends, starts = lines.ends[:num_lines], lines.starts[:num_lines]
    if continues is None:
        first_line = np.arange(num_lines)
    else:
        first_line = np.flatnonzero(~continues[:num_lines])
        is_bad = is_bad[first_line]
        starts, ends = starts[first_line], ends[np.append(first_line[1:], num_lines) - 1] if num_lines else ends
    num_bytes = int(ends[-1]) + 1 if len(ends) else 0
    lengths = ends - starts
    is_bad = is_bad | (lengths > MAX_LINE_BYTES)
    has_return, has_inner = np.zeros(len(ends), dtype=bool), False
    if b"\r" in block:
        has_return = (lines.data[np.maximum(ends - 1, 0)] == _RETURN) & (lengths > 0)
        lengths = lengths - has_return
        has_inner = _mark_returns(block, lines.data, starts, ends, is_bad, layout)
    if not block.isascii() and not is_utf8(block):
        for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            is_bad[index] = is_bad[index] or not is_utf8(block[start:end])
    is_blank = lengths == 0
    return Records(first_line, starts, ends, is_bad & ~is_blank, is_blank, has_return, has_inner, num_lines, num_bytes)


def _mark_returns(
    block: bytes,
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    is_bad: NDArray[np.bool_],
    layout: Layout,
) -> bool:
    """Marks records with a carriage return that neither ends a line nor is in a quoted field that is not read.

    Returns whether there are others.
    """
    returns = np.flatnonzero(data == _RETURN)
    inner = returns[data[returns + 1] != _NEWLINE]
    has_others = False
    for index in np.unique(np.searchsorted(ends, inner)).tolist():
        if index < len(ends) and not is_bad[index]:
            is_bad[index] = not layout.may_hold_returns(block[starts[index] : ends[index]])
            has_others |= not is_bad[index]
    return has_others


class _Lines:
    """The physical lines of a block, with the marks (quotes and line ends) that divide it."""

    def __init__(self, block: bytes, layout: Layout) -> None:
        self.block = block
        self.layout = layout
        self.data = np.frombuffer(block, dtype=np.uint8)
        is_mark = self.data == _NEWLINE
        if layout.dialect.quote:
            is_mark |= self.data == _QUOTE
        marks = np.flatnonzero(is_mark)
        self.end_marks = np.flatnonzero(self.data[marks] == _NEWLINE)
        self.marks = marks
        self.ends = marks[self.end_marks]
        self.starts = np.append(0, self.ends[:-1] + 1)[: len(self.ends)]
        # Delimiters between each mark and the one before it.
        self.delimiters = _counts_between(self.data == ord(layout.dialect.delimiter), marks)

    @cached_property
    def num_quotes(self) -> NDArray[np.int64]:
        """Quotes in each line."""
        return np.diff(self.end_marks, prepend=-1) - 1

    @cached_property
    def line_of_mark(self) -> NDArray[np.int64]:
        """The line of each mark."""
        return np.repeat(np.arange(len(self.ends)), self.num_quotes + 1)

    @cached_property
    def num_separators_raw(self) -> NDArray[np.int64]:
        """Delimiters in each line, within quotes or not."""
        return self._by_line(self.delimiters)

    def _by_line(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(self.marks) == len(self.ends):
            return values
        return cast("NDArray[np.int64]", np.add.reduceat(values, np.append(0, self.end_marks[:-1] + 1)))

    def read(self, start_quoted: int) -> _Reading:
        """The lines read from left to right, where the block starts within quotes (1) or outside (0)."""
        if len(self.marks) == len(self.ends) and not start_quoted:
            nothing = np.zeros(len(self.ends), dtype=bool)
            return _Reading(self.delimiters, nothing, nothing)
        before = np.arange(len(self.marks)) - self.line_of_mark + start_quoted
        is_quoted = (before & 1).astype(bool)
        separators = self._by_line(np.where(is_quoted, 0, self.delimiters))
        is_quote = np.ones(len(self.marks), dtype=bool)
        is_quote[self.end_marks] = False
        quotes, closes = self.marks[is_quote], is_quoted[is_quote]
        has_misplaced = np.zeros(len(self.ends), dtype=bool)
        has_misplaced[self.line_of_mark[is_quote][~np.where(closes, *self._places(quotes))]] = True
        return _Reading(separators, has_misplaced, is_quoted[np.append(0, self.end_marks[:-1] + 1)])

    def _places(self, quotes: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which of `quotes` may close a field, and which may open one, or are part of an escaped pair."""
        delimiter = ord(self.layout.dialect.delimiter)
        before = self.data[np.maximum(quotes - 1, 0)]
        # The block ends with a newline, so there is a byte behind every quote.
        after = self.data[quotes + 1]
        opens = (before == delimiter) | (before == _NEWLINE) | (before == _QUOTE) | (quotes == 0)
        closes = (after == delimiter) | (after == _NEWLINE) | (after == _QUOTE) | (after == _RETURN)
        return closes, opens

    def resolved(self, *, is_last: bool) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_], int]:
        """Which lines go on with a record (None: none does), which begin a bad one, and how many lines are decided."""
        if not self.layout.dialect.quote:
            return self._joined(is_last=is_last)
        plain = self.read(0)
        odd = np.flatnonzero(self.num_quotes & 1) if len(self.marks) > len(self.ends) else self.marks[:0]
        is_bad = plain.is_bad(self.layout)
        if not len(odd):
            return None, is_bad, len(self.ends)
        first, last = odd[: len(odd) // 2 * 2 : 2], odd[1::2]
        fits = self._fit(plain, first, last)
        # The last record may end in the next block.
        is_open = len(odd) % 2 == 1 and not is_last and self._window_end(int(odd[-1])) is None
        if fits.all() and (is_open or len(odd) % 2 == 0):
            in_pairs = plain.is_quoted_at_start.copy()
            in_pairs[first] = True
            return plain.is_quoted_at_start, is_bad & ~in_pairs, int(odd[-1]) if is_open else len(self.ends)
        return self._walk(plain, odd, fits, is_last=is_last)

    def _joined(self, *, is_last: bool) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_], int]:
        """`resolved` where there are no quotes: an escaped line break joins two lines."""
        is_bad = self.read(0).is_bad(self.layout)
        if not self.layout.dialect.has_backslashes or JOINT not in self.block:
            return None, is_bad, len(self.ends)
        joins = self.ends >= len(_JOINT)
        for offset, byte in enumerate(_JOINT[::-1].tolist(), start=1):
            joins &= self.data[np.maximum(self.ends - offset, 0)] == byte
        continues = np.append(False, joins[:-1])
        first = np.flatnonzero(~continues)
        last = np.append(first[1:], len(joins)) - 1
        num_lines = len(joins)
        if joins[-1] and not is_last and self._window_end(int(first[-1])) is None:
            num_lines = int(first[-1])
        total = np.add.reduceat(self.delimiters, first)
        reads = np.array(self.layout.is_read)
        position = np.minimum(
            np.cumsum(self.delimiters) - np.repeat(np.cumsum(total) - total, last - first + 1), len(reads) - 1
        )
        breaks_read = np.add.reduceat((joins & reads[np.minimum(position, len(reads) - 1)]).astype(np.int64), first) > 0
        is_long = (last - first >= MAX_RECORD_LINES) | (self.ends[last] - self.starts[first] > MAX_LINE_BYTES)
        splits = (total != self.layout.num_columns - 1) | is_long
        # A record that does not fit falls apart into its lines, so that a stray backslash costs no more than it must.
        continues &= ~np.repeat(splits, last - first + 1)
        is_bad[first[~splits]] = breaks_read[~splits]
        is_bad |= joins & np.repeat(splits, last - first + 1)
        return continues, is_bad, num_lines

    def _window_end(self, first: int) -> int | None:
        """The last line that a record from line `first` on may reach; None if that is behind the block."""
        by_bytes = int(np.searchsorted(self.ends, self.starts[first] + MAX_LINE_BYTES, side="right")) - 1
        end = min(by_bytes, first + MAX_RECORD_LINES - 1)
        return None if end >= len(self.ends) - 1 else max(end, first)

    def _fit(self, reading: _Reading, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the lines from each of `first` to the one of `last` are a record, in a `reading` of its state."""
        if not len(last):
            return np.zeros(0, dtype=bool)
        separators, misplaced = _sums(reading.num_separators), _sums(reading.has_misplaced)
        fits = separators[last + 1] - separators[first] == self.layout.num_columns - 1
        fits &= misplaced[last + 1] == misplaced[first]
        fits &= (last - first < MAX_RECORD_LINES) & (self.ends[last] - self.starts[first] <= MAX_LINE_BYTES)
        # A line that ends within quotes breaks off in the column that is as far as the separators up to there.
        lengths = last - first
        broken = np.repeat(first, lengths) + np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        column = separators[broken + 1] - np.repeat(separators[first], lengths)
        is_read = np.array(self.layout.is_read)[np.minimum(column, self.layout.num_columns - 1)]
        fits[np.repeat(np.arange(len(first)), lengths)[is_read]] = False
        return self._without_swallowed(reading, fits, first, last)

    def _without_swallowed(
        self, reading: _Reading, fits: NDArray[np.bool_], first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """`fits` without two stray quotes around whole posts: each line looks like a post, and ids ascend or fall."""
        if self.layout.id_column is None:
            return fits
        looks_whole = _sums(self.num_separators_raw >= self.layout.num_columns - 1)
        is_suspect = fits & (looks_whole[last + 1] - looks_whole[first] == last + 1 - first)
        # The first and the last line have the right number of fields if their stray quotes are left out.
        behind, before = self.delimiters[self.end_marks[first]], self.delimiters[self.end_marks[last - 1] + 1]
        is_suspect &= reading.num_separators[first] + behind == self.layout.num_columns - 1
        is_suspect &= reading.num_separators[last] + before == self.layout.num_columns - 1
        for index in np.flatnonzero(is_suspect).tolist():
            ids = [self.layout.id_of(self.line(line)) for line in range(int(first[index]), int(last[index]) + 1)]
            steps = [left is not None and right is not None and left < right for left, right in itertools.pairwise(ids)]
            falls = [left is not None and right is not None and left > right for left, right in itertools.pairwise(ids)]
            fits[index] = not (all(steps) or all(falls))
        return fits

    def line(self, index: int) -> bytes:
        """The bytes of one line."""
        return self.block[self.starts[index] : self.ends[index]]

    def _walk(
        self, plain: _Reading, odd: NDArray[np.int64], fits: NDArray[np.bool_], *, is_last: bool
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
        """`resolved`, pair by pair, where some lines with an odd number of quotes form no record with the next."""
        other = self.read(1)
        pair_fits = np.zeros(max(len(odd) - 1, 0), dtype=bool)
        pair_fits[::2] = fits
        pair_fits[1::2] = self._fit(other, odd[1 : len(odd) - 1 : 2], odd[2::2])
        alone = plain.at(~plain.is_quoted_at_start, other)  # each line read as the start of a record
        is_bad = alone.is_bad(self.layout)
        is_bad[odd] = True
        starts = np.flatnonzero(4 * self.num_separators_raw >= self.layout.num_columns - 1)
        continues = np.zeros(len(self.ends), dtype=bool)
        index = 0
        while index < len(odd):
            first = int(odd[index])
            following = int(odd[index + 1]) if index + 1 < len(odd) else None
            if following is not None and pair_fits[index]:
                end = following
                is_bad[first] = False
            else:
                window = self._window_end(first)
                if window is None and following is None and not is_last:
                    return continues, is_bad, first
                window = len(self.ends) - 1 if window is None else window
                end = self._bad_end(first, following, window, starts)
            continues[first + 1 : end + 1] = True
            is_bad[first + 1 : end + 1] = False
            index += 2 if end == following else 1
        return continues, is_bad, len(self.ends)

    def _bad_end(self, first: int, following: int | None, window: int, starts: NDArray[np.int64]) -> int:
        """The last line of the bad record that begins with line `first`: that before the next one with an id.

        `following` is the line that closes the quotes. `starts` are lines with a quarter of the delimiters or more.
        """
        end = window if following is None else min(window, following)
        begin, stop = np.searchsorted(starts, [first + 1, end + 1]).tolist()
        for line in starts[begin:stop].tolist():
            if self.layout.has_id(self.line(line)):
                return int(line) - 1
        return end


@dataclass(frozen=True)
class _Reading:
    """The lines of a block as they come out if the block starts within quotes, or outside; arrays are `[lines]`."""

    num_separators: NDArray[np.int64]
    """Delimiters outside of quotes."""
    has_misplaced: NDArray[np.bool_]
    """Whether a quote is neither at an end of a field nor part of an escaped pair."""
    is_quoted_at_start: NDArray[np.bool_]

    def is_bad(self, layout: Layout) -> NDArray[np.bool_]:
        """Which lines, each a record by itself, are not well formed."""
        return cast("NDArray[np.bool_]", (self.num_separators != layout.num_columns - 1) | self.has_misplaced)

    def at(self, chosen: NDArray[np.bool_], other: _Reading) -> _Reading:
        """The lines of this reading where `chosen`, else those of `other`."""
        return _Reading(
            np.where(chosen, self.num_separators, other.num_separators),
            np.where(chosen, self.has_misplaced, other.has_misplaced),
            np.where(chosen, self.is_quoted_at_start, other.is_quoted_at_start),
        )


def _sums(values: NDArray[Any]) -> NDArray[np.int64]:
    """Sums of the first 0, 1, ... of `values`."""
    return np.append(0, np.cumsum(values, dtype=np.int64))


def _counts_between(mask: NDArray[np.bool_], marks: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often `mask` is true between each of `marks` (ascending) and the one before it."""
    if not len(marks):
        return marks
    starts = np.append(0, marks[:-1])
    counts = np.add.reduceat(mask.view(np.uint8), starts, dtype=np.uint8)
    # Sums in 8 bits are several times faster than in 64; where one overflows, the total comes out too small.
    if counts.sum(dtype=np.int64) != np.count_nonzero(mask):
        return cast("NDArray[np.int64]", np.add.reduceat(mask.view(np.uint8), starts, dtype=np.int64))
    return counts.astype(np.int64)
