"""The records of a CSV text, found byte by byte: what ``records.py`` must find in blocks."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from booru_embed_core.posts.readers.dialect import Dialect


@dataclass(frozen=True)
class Form:
    """What the records look like; the last column, ``note``, is the only one that may hold a line break."""

    num_separators: int = 7
    delimiter: bytes = b","


def slow_records(lines: Sequence[bytes], max_lines: int, form: Form = Form()) -> list[tuple[int, int, bool]]:
    """First line (from 0), number of lines and well-formedness of each record; blank lines are left out."""
    records, index = [], 0
    while index < len(lines):
        end, is_good = _record_from(lines, index, max_lines, form)
        text = b"\n".join(lines[index : end + 1])
        if text.removesuffix(b"\r"):
            records.append((index, end + 1 - index, is_good and _is_sound(text, form)))
        index = end + 1
    return records


def _record_from(lines: Sequence[bytes], first: int, max_lines: int, form: Form) -> tuple[int, bool]:
    """The last line of the record that begins with line `first`, and whether its quotes and separators are right."""
    if not _is_odd(lines[first]):
        count, is_placed = _line(lines[first], form, is_quoted=False)
        return first, is_placed and count == form.num_separators
    window = range(first + 1, min(first + max_lines, len(lines)))
    closing = next((index for index in range(first + 1, len(lines)) if _is_odd(lines[index])), len(lines))
    if closing in window and _is_record(lines[first : closing + 1], form):
        return closing, True
    end = min(closing, max([first, *window]))
    starts = (
        index for index in range(first + 1, end + 1) if 4 * lines[index].count(form.delimiter) >= form.num_separators
    )
    return next((index - 1 for index in starts if post_id(lines[index], form) is not None), end), False


def _is_odd(line: bytes) -> bool:
    return line.count(b'"') % 2 == 1


def _line(line: bytes, form: Form, *, is_quoted: bool) -> tuple[int, bool]:
    """Separators outside of quotes, and whether each quote stands where it may."""
    count, is_placed = 0, True
    for position, byte in enumerate(line):
        before = line[position - 1 : position] if position else b""
        after = line[position + 1 : position + 2]
        if byte == ord('"'):
            is_placed &= (
                after in (b"", form.delimiter, b'"', b"\r") if is_quoted else before in (b"", form.delimiter, b'"')
            )
            is_quoted = not is_quoted
        count += byte == ord(form.delimiter) and not is_quoted
    return count, is_placed


def _is_record(lines: Sequence[bytes], form: Form) -> bool:
    """Whether `lines`, of which only the first and the last have an odd number of quotes, are one record."""
    total = 0
    for index, line in enumerate(lines):
        count, is_placed = _line(line, form, is_quoted=index > 0)
        total += count
        if not is_placed or (index < len(lines) - 1 and total != form.num_separators):
            return False
    if total != form.num_separators:
        return False
    ids = [post_id(line, form) for line in lines if line.count(form.delimiter) >= form.num_separators]
    known = [one for one in ids if one is not None]
    is_many = len(known) == len(lines) and len(set(known)) == len(known)
    behind, before = lines[0].split(b'"')[-1], lines[-1].split(b'"')[0]
    is_many &= _line(lines[0], form, is_quoted=False)[0] + behind.count(form.delimiter) == form.num_separators
    is_many &= _line(lines[-1], form, is_quoted=True)[0] + before.count(form.delimiter) == form.num_separators
    return not (is_many and known in (sorted(known), sorted(known)[::-1]))


def post_id(line: bytes, form: Form) -> int | None:
    """The first field of `line` as a number."""
    text = line.decode("utf-8", "replace").replace("\r", " ")
    try:
        field = next(csv.reader([text], delimiter=form.delimiter.decode()), [""])[0]
    except csv.Error:
        return None
    # A number that is longer than any id is none.
    return int(field.partition(".")[0]) if re.fullmatch(r"-?[0-9]{1,19}(\.0+)?", field) else None


def _is_sound(record: bytes, form: Form) -> bool:
    """Whether a record of the right form is UTF-8, without carriage returns outside of quotes or in what is read."""
    try:
        fields = Dialect(form.delimiter.decode()).fields(record.decode().removesuffix("\r"))
    except (UnicodeDecodeError, csv.Error):
        return False
    return not any("\r" in field for field in fields[: form.num_separators])
