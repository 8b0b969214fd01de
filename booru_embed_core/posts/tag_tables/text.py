"""Tables of tags as CSV or TSV, with a header or without one.

A value keeps its spelling, so a tag called ``null`` stays a tag.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from booru_embed_core.errors import first_line
from booru_embed_core.posts.readers.lines import BOM, raw_lines, whole_lines
from booru_embed_core.posts.tag_tables.columns import BLOCK_ROWS, Block, Role, TagRows, columns_by_role, is_header
from booru_embed_core.posts.validation import ExportError

_WITHOUT_HEADER: Final = (Role.NAME, Role.CATEGORY, None, Role.ALIASES)
"""The columns of a1111-tagcomplete's tables, which have no header; the third is the number of posts."""

_IDS: Final = ("", "id", "tag_id", "index")
"""How a header begins whose second column may be called as a category, such as ``id,tag``."""

_DELIMITERS: Final = ("\t", ",", ";")
_MAX_LINES_OF_A_ROW: Final = 100
_QUOTED_LINE: Final = re.compile(rb'[^\n]*"[^\n]*')
_HEADER: Final = re.compile(rb"(?:[ \t\r]*\n)*[^\n]*\n")


@dataclass(frozen=True)
class _Layout:
    """How the rows of a text are written."""

    delimiter: str
    names: tuple[str, ...]
    indices: Mapping[Role, int]
    has_header: bool
    is_quoted: bool = True


def text_rows(file: Path, is_category: Callable[[Any], bool]) -> TagRows:
    """The rows of the text `file`; without a header, if the second value of the first row `is_category`."""
    first = next((line for line in raw_lines(file) if line.strip()), b"").decode("utf-8", "replace")
    rows = {delimiter: _first_row(first, delimiter) for delimiter in _DELIMITERS}
    for delimiter, row in rows.items():
        if is_header(row):
            indices = {role: row.index(name) for role, name in columns_by_role(row).items()}
            return _rows_of_text(file, _Layout(delimiter, tuple(row), indices, has_header=True))
        if 2 <= len(row) <= len(_WITHOUT_HEADER) and is_category(row[1]) and row[0].lower() not in _IDS:
            # Some writers leave out the aliases of a tag that has none.
            tried = islice(_numbered_rows(_text_lines(whole_lines(file), file, 1), 1, delimiter, file), BLOCK_ROWS)
            width = min(max(len(row) for _, row in tried), len(_WITHOUT_HEADER))
            indices = {role: index for index, role in enumerate(_WITHOUT_HEADER[:width]) if role is not None}
            names = ("tag", "category", "post_count", "aliases")[:width]
            return _rows_of_text(file, _Layout(delimiter, names, indices, has_header=False))
    _, names = max((len(row), tuple(row)) for row in rows.values())
    return TagRows(names, frozenset(columns_by_role(names)), "line", iter(()))


def _rows_of_text(file: Path, layout: _Layout) -> TagRows:
    if layout.delimiter == "\t":
        layout = replace(layout, is_quoted=_has_quoting(file))
    return TagRows(layout.names, frozenset(layout.indices), "line", _text_blocks(file, layout))


def _first_row(line: str, delimiter: str) -> list[str]:
    try:
        return [value.strip() for value in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
    except csv.Error:
        return line.split(delimiter)


def _has_quoting(file: Path) -> bool:
    """Whether quotes in a TSV enclose values: every value with a quote is well quoted, and not without need."""
    for line in raw_lines(file):
        if b'"' not in line:
            continue
        values = line.split(b"\t")
        is_all_quoted = all(value.startswith(b'"') for value in values if value)
        for value in values:
            inner = value[1:-1]
            if b'"' not in value or value == b'""':
                continue
            if len(value) < 2 or not value.startswith(b'"') or not value.endswith(b'"'):
                return False
            if b'"' in inner.replace(b'""', b"") or not (is_all_quoted or b'"' in inner):
                return False
    return True


def _text_blocks(file: Path, layout: _Layout) -> Iterator[Block]:
    """The rows by Arrow, as far as each is one plain line, and the rest by Python, which names what is wrong."""
    blocks = whole_lines(file)
    first = next(blocks, b"").removeprefix(BOM)
    blocks, number = chain([first], blocks), 1
    if layout.has_header:
        header = _HEADER.match(first)
        assert header is not None
        blocks, number = chain([first[header.end() :]], islice(blocks, 1, None)), 1 + header[0].count(b"\n")
    for block in blocks:
        plain = _plain_block(block, layout, number)
        if plain is None:
            yield from _other_blocks(file, chain([block], blocks), layout, number)
            return
        number += len(plain.numbers)
        yield plain


def _plain_block(block: bytes, layout: _Layout, number: int) -> Block | None:
    """The rows of `block`, the first of which is line `number`; None if one is not a line of its own, or unusual."""
    if not block:
        return Block((), dict.fromkeys(layout.indices, ()))
    if layout.is_quoted and b'"' in block:
        quoted = _QUOTED_LINE.findall(block)
        if b', "' in block or any(line.count(b'"') % 2 for line in quoted):
            return None
        try:
            for _ in csv.reader((line.decode("utf-8") for line in quoted), delimiter=layout.delimiter, strict=True):
                pass
        except (csv.Error, UnicodeDecodeError):
            return None
    names = [str(index) for index in range(len(layout.names))]  # the file's own may repeat
    wanted = {role: names[index] for role, index in layout.indices.items()}
    try:
        table = pacsv.read_csv(
            cast("IO[bytes]", pa.BufferReader(block)),
            pacsv.ReadOptions(use_threads=False, column_names=names, block_size=len(block) + 1),
            pacsv.ParseOptions(delimiter=layout.delimiter, quote_char='"' if layout.is_quoted else False),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
                include_columns=list(wanted.values()),
            ),
        )
    except pa.ArrowInvalid:
        return None
    columns = {role: table.column(name).combine_chunks() for role, name in wanted.items()}
    named = [columns[role] for role in (Role.NAME, Role.OLD) if role in columns]
    if table.num_rows != block.count(b"\n") or any(pc.any(pc.equal(one, pa.scalar(""))).as_py() for one in named):
        return None
    return Block(range(number, number + table.num_rows), columns)


def _other_blocks(file: Path, blocks: Iterable[bytes], layout: _Layout, number: int) -> Iterator[Block]:
    rows = _numbered_rows(_text_lines(blocks, file, number), number, layout.delimiter, file, layout.is_quoted)
    width = len(layout.names)
    while some := list(islice(rows, BLOCK_ROWS)):
        for line, row in some:
            if not layout.has_header and 2 <= len(row) < width:
                row += [""] * (width - len(row))
            if len(row) != width:
                raise ExportError(
                    f"{file} line {line}: {','.join(row)[:80]!r} has {len(row)} values instead of {width}, "
                    f"{','.join(layout.names)[:80]}; correct the line"
                )
        columns = list(zip(*(row for _, row in some), strict=True))
        yield Block([line for line, _ in some], {role: columns[index] for role, index in layout.indices.items()})


def _numbered_rows(
    lines: Iterator[str], start: int, delimiter: str, file: Path, is_quoted: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """The rows of `lines` that are not empty, each with the number of its first line, counted from `start`."""
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        strict=True,
        skipinitialspace=delimiter != "\t",
        quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE,
    )
    number = start
    try:
        for row in reader:
            if reader.line_num + start - 1 - number > _MAX_LINES_OF_A_ROW:
                raise csv.Error(f"the row ends only in line {reader.line_num + start - 1}")
            if any(row):
                yield number, row
            number = reader.line_num + start
    except csv.Error as error:
        what = f"broken quotes ({first_line(error)})"
        if str(error).startswith("new-line character"):
            what = "a carriage return within the line"
        raise ExportError(f"{file} line {number}: {what}; correct the line") from None


def _text_lines(blocks: Iterable[bytes], file: Path, number: int) -> Iterator[str]:
    """The lines of `blocks` with their ends; the first is line `number`."""
    for block in blocks:
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError as error:
            line = number + block.count(b"\n", 0, error.start)
            raise ExportError(f"{file} line {line}: not UTF-8 ({first_line(error)}); save it as CSV in UTF-8") from None
        number += block.count(b"\n")
        yield from io.StringIO(text, newline="\n")
