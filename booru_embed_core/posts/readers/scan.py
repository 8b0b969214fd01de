"""A first look at the bytes of an export: how many records there are, and which are not well formed.

It does not use DuckDB, so its count is an independent one to reconcile against. It checks what a file's dialect asks of
a record: balanced quotes at the ends of fields, and the right number of fields. It works on blocks of bytes with numpy,
about 1.5 CPU seconds a gigabyte; ``records.py`` finds the records of a block.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.compression import Compression, compression_of
from booru_embed_core.posts.readers.dialect import JOINT, Dialect, delimiter_of, joined
from booru_embed_core.posts.readers.dialect_found import SAMPLE_BYTES, dialect_of
from booru_embed_core.posts.readers.lines import (
    BOM,
    concatenated,
    is_transcoded,
    whole_lines,
)
from booru_embed_core.posts.readers.records import Layout, Records, find_records
from booru_embed_core.posts.validation import ExportError, columns_of, has_all_tags
from booru_embed_core.schema import ALL_TAGS_COLUMN, FLAG_COLUMNS, TAG_COLUMNS

BLOCK_BYTES: Final = 1 << 20
"""Such blocks and all arrays about them stay in the processor's cache: four times larger ones take twice as long."""


@dataclass(frozen=True)
class Scan:
    """What one file holds. Lines are physical ones, counted from 1 with the header; a blank one is no record."""

    columns: tuple[str, ...]
    dialect: Dialect
    num_records: int
    malformed: NDArray[np.int64]
    """The first lines, ascending, of records that are not well formed."""
    long: NDArray[np.int64]
    """First line and number of lines of each record that has several, int64 `[records, 2]`, ascending."""
    skipped: NDArray[np.int64]
    """First line and number of each run of lines on which no well-formed record begins, int64 `[runs, 2]`."""
    newline: str | None
    r"""The end of every record, ``"\n"`` or ``"\r\n"``; None where a parser must not see them as they are."""
    compression: Compression
    is_rewritten: bool
    """Whether the bytes that were scanned are not those of the file: it has escapes or is not in UTF-8."""

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """First lines of `record`, which counts the well-formed records from 0."""
        return lines_between(record, self.skipped)

    @property
    def is_clean(self) -> bool:
        """Whether the file can be parsed as it is."""
        is_known = self.compression in (Compression.NONE, Compression.GZIP, Compression.ZSTD)
        return is_known and not len(self.malformed) and self.newline is not None and not self.is_rewritten

    def of_clean_copy(self) -> Scan:
        r"""This scan for a copy of well-formed records alone, each with ``\n`` at its end."""
        return dataclasses.replace(
            self, malformed=self.malformed[:0], newline="\n", compression=Compression.NONE, is_rewritten=False
        )


def lines_between(record: NDArray[np.int64], skipped: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lines of `record`, which counts from 0 those from line 2 on that are in no run of `skipped`."""
    num_before = np.cumsum(skipped[:, 1]) - skipped[:, 1]
    # The k-th line that is not skipped follows every run r that begins at most k lines after those before r.
    run = np.searchsorted(skipped[:, 0] - num_before, record + 2, side="right")
    return cast("NDArray[np.int64]", record + 2 + np.append(0, np.cumsum(skipped[:, 1]))[run])


@dataclass
class _Findings:
    num_records: int = 0
    num_lines: int = 1
    num_ends: int = 0
    num_returns: int = 0
    has_inner_returns: bool = False
    malformed: list[NDArray[np.int64]] = field(default_factory=list)
    long: list[NDArray[np.int64]] = field(default_factory=list)
    skipped: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, records: Records) -> None:
        """Counts the `records` of the next block."""
        first_line = records.first_line + self.num_lines + 1
        num_lines_of = records.num_lines_of
        is_skipped = records.is_bad | records.is_blank
        self.malformed.append(first_line[records.is_bad])
        self.num_records += len(first_line) - int(records.is_blank.sum())
        self.num_lines += records.num_lines
        self.num_ends += len(first_line)
        self.num_returns += int(records.has_return.sum())
        self.has_inner_returns |= records.has_inner_returns
        if records.num_lines == len(first_line):
            self.skipped.append(_pairs(first_line[is_skipped], num_lines_of[is_skipped]))
            return
        is_long = num_lines_of > 1
        self.long.append(_pairs(first_line[is_long], num_lines_of[is_long]))
        # A well-formed record of several lines begins on its first one.
        has_skipped = is_skipped | is_long
        self.skipped.append(_pairs(first_line + ~is_skipped, num_lines_of - ~is_skipped)[has_skipped])


def _pairs(first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([first, count], axis=1)


def _all_pairs(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.int64)


class Scanner:
    """Finds the records of a CSV or TSV file, plain or compressed, block by block.

    Raises:
        ExportError: no header, a wrong one, or a broken compressed stream.
    """

    def __init__(self, file: Path, conventions: Conventions = DANBOORU) -> None:
        self._blocks = whole_lines(file, BLOCK_BYTES)
        first = next(self._blocks, b"")
        self.header, _, rest = first.removeprefix(BOM).partition(b"\n")
        if not self.header.strip():
            raise ExportError(f"{file}: is empty; export the posts again or remove the file")
        self.columns = columns_of(self.header, file, conventions)
        self._blocks = itertools.chain([rest] if rest else [], self._blocks)
        self.layout = self._layout()
        self._compression = compression_of(file)
        self._is_rewritten = self.layout.dialect.has_backslashes or is_transcoded(file)
        self._findings = _Findings()

    def _layout(self) -> Layout:
        sample, num_bytes = [], 0
        try:
            while num_bytes < SAMPLE_BYTES and (block := next(self._blocks, b"")):
                sample.append(block)
                num_bytes += len(block)
        except ExportError as error:
            self._blocks = itertools.chain(sample, _raising(error))
        else:
            self._blocks = itertools.chain(sample, self._blocks)
        tags = (ALL_TAGS_COLUMN,) if has_all_tags(self.columns) else TAG_COLUMNS
        read = {"id", "rating", "score", *FLAG_COLUMNS, *tags}
        layout = Layout(
            num_columns=len(self.columns),
            id_column=self.columns.index("id") if "id" in self.columns else None,
            is_read=tuple(name in read for name in self.columns),
            dialect=Dialect(delimiter_of(self.header)),
        )
        return dialect_of(sample, layout, is_whole=num_bytes < SAMPLE_BYTES)

    def blocks(self) -> Iterator[tuple[bytes, Records]]:
        """Blocks, without escapes and in UTF-8, with the records that are in them."""
        pending = b""
        for block in self._blocks:
            pending += self.layout.dialect.without_escapes(block)
            records = find_records(pending, self.layout, is_last=False)
            if records.num_lines:
                self._findings.add(records)
                yield pending, records
            pending = pending[records.num_bytes :]
        if pending:
            records = find_records(pending, self.layout)
            self._findings.add(records)
            yield pending, records

    def take(self) -> Scan:
        """What was found in the blocks since the last call. Lines count from 1 at the header of the file."""
        found, self._findings = self._findings, _Findings(num_lines=self._findings.num_lines)
        header_returns = int(self.header.endswith(b"\r"))
        is_plain, is_windows = (found.num_returns + header_returns == count for count in (0, found.num_ends + 1))
        has_breaks = found.has_inner_returns or bool(found.long)
        return Scan(
            columns=self.columns,
            dialect=self.layout.dialect,
            num_records=found.num_records,
            malformed=concatenated(found.malformed),
            long=_all_pairs(found.long),
            skipped=_all_pairs(found.skipped),
            # DuckDB stumbles over other line breaks within quotes where records end with two bytes.
            newline="\n" if is_plain else "\r\n" if is_windows and not has_breaks else None,
            compression=self._compression,
            is_rewritten=self._is_rewritten,
        )


def _raising(error: ExportError) -> Iterator[bytes]:
    """Raises `error` where the blocks that can be read end."""
    yield from ()
    raise error


def scan_file(file: Path, conventions: Conventions = DANBOORU) -> Scan:
    """The scan of `file`: CSV or TSV, plain or compressed.

    Raises:
        ExportError: no header, a wrong one, or a broken compressed stream.
    """
    scanner = Scanner(file, conventions)
    for _ in scanner.blocks():
        pass
    return scanner.take()


def clean(block: bytes, records: Records) -> Iterator[bytes]:
    r"""The well-formed `records` of `block`, each with ``\n`` at its end, and escaped line breaks as marks."""
    is_good = ~(records.is_bad | records.is_blank)
    if is_good.all() and not records.has_return.any() and JOINT not in block:
        yield block[: records.num_bytes]
        return
    # Runs of good records are copied as one.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_good, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2).tolist():
        yield joined(block[records.starts[begin] : records.ends[end - 1] + 1].replace(b"\r\n", b"\n"))


def write_clean_copy(file: Path, target: Path, conventions: Conventions = DANBOORU) -> None:
    r"""Writes the header and the well-formed records of `file` to `target`; all line ends become ``\n``."""
    scanner = Scanner(file, conventions)
    with target.open("wb") as out:
        out.write(scanner.header.removesuffix(b"\r") + b"\n")
        for block, records in scanner.blocks():
            out.writelines(clean(block, records))


def select_records(file: Path, lines: Sequence[int], long: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    """First line and text of the records of `file` that begin on `lines` (ascending), without the last line end.

    `long` has the records of several lines, as in `Scan.long`.
    """
    num_lines_of = dict(long[np.isin(long[:, 0], lines)].tolist())
    upcoming = iter(lines)
    wanted = next(upcoming, 0)
    record: list[bytes] = []
    for number, line in enumerate(_physical_lines(file) if wanted else (), start=1):
        if number >= wanted:
            record.append(line)
            if number + 1 == wanted + num_lines_of.get(wanted, 1):
                yield wanted, b"\n".join(record).removesuffix(b"\r")
                record.clear()
                wanted = next(upcoming, 0)
                if not wanted:
                    return


def _physical_lines(file: Path) -> Iterator[bytes]:
    for number, block in enumerate(whole_lines(file)):
        yield from (block.removeprefix(BOM) if number == 0 else block).split(b"\n")[:-1]
