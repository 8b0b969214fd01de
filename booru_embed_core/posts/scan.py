"""A first look at the bytes of an export: how many records there are, and which lines are not well formed.

It knows nothing of DuckDB, so its count is an independent one to reconcile against. It asks of every line what
RFC 4180 asks of a record without line breaks: balanced quotes, which stand at the ends of fields, and the right
number of fields. It works on blocks of bytes with numpy: about 3 CPU seconds a gigabyte.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.validation import MAX_LINE_BYTES, ExportError, columns_of

_BLOCK_BYTES: Final = 4 << 20
_NEWLINE, _RETURN, _QUOTE, _COMMA = b'\n\r",'
_BOM: Final = b"\xef\xbb\xbf"
_GZIP_MAGIC: Final = b"\x1f\x8b"


@dataclass(frozen=True)
class Scan:
    """What one file holds. Lines are physical ones, counted from 1 with the header; blank ones are no records."""

    columns: tuple[str, ...]
    num_records: int
    malformed: NDArray[np.int64]
    """Line numbers, ascending, of records that are not well formed."""
    blank: NDArray[np.int64]
    """Line numbers, ascending, of empty lines."""
    newline: str | None
    """The line end that all lines have, ``"\\n"`` or ``"\\r\\n"``; None where they are mixed."""
    has_bom: bool
    is_gzip: bool

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """Line numbers of well-formed records, `record` counting these alone from 0."""
        skipped = np.sort(np.concatenate([self.malformed, self.blank]))
        # The k-th line left over by `skipped` lies behind every skipped line s with s - (skipped before s) <= k.
        free_before = skipped - np.arange(len(skipped))
        first = record + 2
        return cast("NDArray[np.int64]", first + np.searchsorted(free_before, first, side="right"))


@dataclass
class _Findings:
    num_records: int = 0
    num_lines: int = 1
    num_returns: int = 0
    malformed: list[NDArray[np.int64]] = field(default_factory=list)
    blank: list[NDArray[np.int64]] = field(default_factory=list)


def scan_file(file: Path) -> Scan:
    """What `file`, plain or gzip, holds.

    Raises:
        ExportError: no header, a wrong one, or a broken gzip stream.
    """
    blocks = _whole_lines(file)
    first = next(blocks, b"")
    header, _, rest = first.partition(b"\n")
    if not header.strip():
        raise ExportError(f"{file}: is empty; export the posts again or remove the file")
    columns = columns_of(header, file)
    findings = _Findings()
    for block in _and_then(rest, blocks):
        _look(block, len(columns), findings)
    returns = findings.num_returns + header.endswith(b"\r")
    newline = "\n" if returns == 0 else "\r\n" if returns == findings.num_lines else None
    return Scan(
        columns=columns,
        num_records=findings.num_records,
        malformed=_joined(findings.malformed),
        blank=_joined(findings.blank),
        newline=newline,
        has_bom=header.startswith(_BOM),
        is_gzip=_is_gzip(file),
    )


def _look(block: bytes, num_columns: int, findings: _Findings) -> None:
    """Adds to `findings` what the lines of `block`, each with its ``\\n``, hold."""
    data = np.frombuffer(block, dtype=np.uint8)
    marks = np.flatnonzero((data == _NEWLINE) | (data == _QUOTE) | (data == _COMMA))
    kinds = data[marks]
    is_end = kinds == _NEWLINE
    ends = marks[is_end]
    num_lines = len(ends)
    line = np.cumsum(is_end) - is_end
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts

    is_quote = kinds == _QUOTE
    quotes_before = np.cumsum(is_quote) - is_quote
    at_end = quotes_before[is_end]
    place = quotes_before - np.concatenate([[0], at_end[:-1]])[line]
    is_open = (place & 1).astype(bool)
    num_fields = 1 + np.bincount(line[(kinds == _COMMA) & ~is_open], minlength=num_lines)
    bad = (num_fields != num_columns) | is_open[is_end] | (lengths > MAX_LINE_BYTES)
    bad[line[is_quote][_misplaced(data, marks[is_quote], is_open[is_quote])]] = True

    if b"\r" in block:
        has_return = data[np.maximum(ends - 1, 0)] == _RETURN
        has_return &= lengths > 0
        findings.num_returns += int(has_return.sum())
        lengths = lengths - has_return
        returns = np.flatnonzero(data == _RETURN)
        inner = returns[data[returns + 1] != _NEWLINE]
        bad[np.searchsorted(ends, inner)] = True
    if not block.isascii():
        _mark_undecodable(block, starts, ends, bad)
    blank = lengths == 0
    first_line = findings.num_lines + 1
    findings.malformed.append(np.flatnonzero(bad & ~blank) + first_line)
    findings.blank.append(np.flatnonzero(blank) + first_line)
    findings.num_records += num_lines - int(blank.sum())
    findings.num_lines += num_lines


def _misplaced(data: NDArray[np.uint8], quotes: NDArray[np.int64], closes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which quotes do not stand at an end of a field, those of an escaped pair aside."""
    before = data[np.maximum(quotes - 1, 0)]
    # The block ends with a newline, so there is a byte behind every quote.
    after = data[quotes + 1]
    starts_field = (before == _COMMA) | (before == _NEWLINE) | (before == _QUOTE) | (quotes == 0)
    ends_field = (after == _COMMA) | (after == _NEWLINE) | (after == _QUOTE) | (after == _RETURN)
    return cast("NDArray[np.bool_]", ~np.where(closes, ends_field, starts_field))


def _mark_undecodable(block: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64], bad: NDArray[np.bool_]) -> None:
    if _is_utf8(block):
        return
    for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if not _is_utf8(block[start:end]):
            bad[index] = True


def _is_utf8(data: bytes) -> bool:
    """Arrow looks at the bytes alone; Python's decoder would build a string four times their size."""
    ends = pa.py_buffer(np.array([0, len(data)], dtype=np.int32).tobytes())
    try:
        pa.StringArray.from_buffers(1, ends, pa.py_buffer(data)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def raw_lines(file: Path) -> Iterator[bytes]:
    """The lines of `file` as they stand, line ends and a byte order mark taken off; overlong ones are cut."""
    for number, block in enumerate(_whole_lines(file)):
        lines = (block.removeprefix(_BOM) if number == 0 else block).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in lines[:-1])


def write_clean_copy(file: Path, scan: Scan, target: Path) -> None:
    """Writes `file` to `target` without the lines that `scan` found malformed, all line ends ``\\n``."""
    unfit = set(scan.malformed.tolist())
    with target.open("wb") as out:
        for number, line in enumerate(raw_lines(file), start=1):
            if number not in unfit:
                out.write(line + b"\n")


def _whole_lines(file: Path) -> Iterator[bytes]:
    """Blocks of whole lines, each line with its ``\\n`` (the last one gets it); a line is cut above the limit."""
    pending = b""
    for block in _blocks(file):
        head, separator, tail = block.rpartition(b"\n")
        if separator:
            yield _cut(pending) + head + separator if len(pending) > MAX_LINE_BYTES else pending + head + separator
            pending = tail
        else:
            pending = _cut(pending + tail)
    if pending:
        yield pending + b"\n"


def _cut(line: bytes) -> bytes:
    # One byte above the limit is enough to be told as too long, and keeps a file without line ends out of memory.
    return line[: MAX_LINE_BYTES + 1]


def _blocks(file: Path) -> Iterator[bytes]:
    opener = cast("Callable[[Path, str], IO[bytes]]", gzip.open if _is_gzip(file) else open)
    try:
        with opener(file, "rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ExportError(f"{file}: the gzip stream is broken ({error}); fetch the file again") from None


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == _GZIP_MAGIC


def _and_then(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
