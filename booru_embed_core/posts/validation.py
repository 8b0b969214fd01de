"""What makes a record of an export invalid, and which columns an export needs.

In text a line is one record: no tag contains a line break, so a stray quote costs its own line and not the rest of the
file. Reasons come from Python's ``csv`` and the raw line; ``readers/scan.py`` finds malformed lines fast.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from booru_embed_core.posts.names import DANBOORU, Names
from booru_embed_core.schema import (
    ALL_TAGS_COLUMN,
    EXPORT_RATING_NAMES,
    FLAG_COLUMNS,
    POST_COLUMNS,
    RATINGS,
    TAG_COLUMNS,
)

MAX_LINE_BYTES: Final = 1 << 20
"""Longer lines are rejected: the longest real record has less than 20 kB, and a reader's buffers must be bounded."""

INT32_RANGE: Final = range(-(2**31), 2**31)
INT64_RANGE: Final = range(-(2**63), 2**63)

TRUE_WORDS: Final = ("true", "True", "TRUE", "t", "1")
FALSE_WORDS: Final = ("false", "False", "FALSE", "f", "0")
"""How exports spell the flags `FLAG_COLUMNS`; an absent, null or empty one is false too."""

_ALL_FIELDS: Final = (*TAG_COLUMNS, ALL_TAGS_COLUMN)


class ExportError(ValueError):
    """The export cannot be read; the message names the file and the remedy in one line."""


class ExportUnreachableError(ExportError):
    """The export did not answer after several attempts; it may answer later."""


class TooManyRejectsError(ExportError):
    """More than the allowed share of the export's records is invalid."""


def decoded(line: bytes) -> tuple[str | None, str]:
    """The problem that keeps `line` from being text (None where there is none), and the text."""
    if len(line) > MAX_LINE_BYTES:
        return f"the line is longer than {MAX_LINE_BYTES} bytes", ""
    try:
        return None, line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start}", ""


def line_problem(
    line: bytes, columns: Sequence[str], delimiter: str = ",", ratings: Mapping[str, str] = EXPORT_RATING_NAMES
) -> str | None:
    """Why `line`, without its end, is no valid post; None for a valid one. `columns` are the file's, in its order."""
    problem, text = decoded(line)
    if problem:
        return problem
    if "\r" in text:
        return "a carriage return inside the line"
    if "\n" in text:
        return "a line break inside the line"
    try:
        fields = _fields(text, delimiter)
    except csv.Error as error:
        return f"broken quotes: {error}"
    if len(fields) != len(columns):
        return f"{len(fields)} fields instead of {len(columns)}"
    return values_problem(dict(zip(columns, fields, strict=True)), ratings) or _quote_problem(text, delimiter)


def _fields(text: str, delimiter: str) -> list[str]:
    # The csv module limits a field to an eighth of `MAX_LINE_BYTES`.
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True))
    finally:
        csv.field_size_limit(before)


def values_problem(values: Mapping[str, str | None], ratings: Mapping[str, str] = EXPORT_RATING_NAMES) -> str | None:
    """Why these values, by column, are no valid post; None for valid ones. A value of None is missing."""
    for name, value in values.items():
        if value is None and name in (*POST_COLUMNS, ALL_TAGS_COLUMN):
            return f"{name} is missing"
    known = {name: value for name, value in values.items() if value is not None}
    return (
        _number_problem("id", known["id"], INT64_RANGE)
        or _rating_problem(known["rating"], ratings)
        or _number_problem("score", known["score"], INT32_RANGE)
        or next(filter(None, (_flag_problem(name, known[name]) for name in FLAG_COLUMNS if name in known)), None)
        or next((f"a line break inside {name}" for name in _ALL_FIELDS if set("\r\n") & set(known.get(name, ""))), None)
    )


def _flag_problem(column: str, value: str) -> str | None:
    return None if value in (*TRUE_WORDS, *FALSE_WORDS, "") else f"{column} {value[:40]!r} is neither true nor false"


def _number_problem(column: str, value: str, allowed: range) -> str | None:
    digits = value.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 19 and int(value) in allowed:
        return None
    return f"{column} {value[:40]!r} is not a whole number from {allowed[0]} to {allowed[-1]}"


def _rating_problem(value: str, ratings: Mapping[str, str]) -> str | None:
    return None if value in ratings else f"rating {value[:40]!r} is not one of {', '.join(RATINGS)}"


def _quote_problem(text: str, delimiter: str) -> str | None:
    """The problem of a quote inside a field that is not quoted itself: parsers disagree about it."""
    if '"' not in text:
        return None
    outside = text.split('"')[::2]
    # Text outside of quotes is empty (an escaped quote) or reaches from delimiter to delimiter.
    starts = all(piece[:1] in ("", delimiter) for piece in outside[1:])
    ends = all(piece[-1:] in ("", delimiter) for piece in outside[:-1])
    if text.count('"') % 2 == 0 and starts and ends:
        return None
    return "a quote inside a field that is not quoted"


def delimiter_of(header: bytes) -> str:
    """The delimiter of `header`, a file's first line: a tab where it holds one, since no column's name does."""
    return "\t" if b"\t" in header else ","


def columns_of(header: bytes, file: Path, names: Names = DANBOORU) -> tuple[str, ...]:
    """The canonical names of the columns of `header`, a file's first line, in its order.

    Raises:
        ExportError: a column is missing or named twice.
    """
    try:
        text = header.decode("utf-8-sig").rstrip("\r")
        found = tuple(next(csv.reader([text], delimiter=delimiter_of(header), strict=True), ()))
    except (UnicodeDecodeError, csv.Error):
        raise ExportError(
            f"{file}: the first line is no header of CSV or TSV in UTF-8: {header[:80]!r}; wanted the columns "
            + ",".join(map(names.source, POST_COLUMNS))
        ) from None
    return check_columns(found, file, names)


def check_columns(
    found: Sequence[str], file: Path, names: Names = DANBOORU, optional: Collection[str] = ()
) -> tuple[str, ...]:
    """The canonical names of the columns `found`, which hold those of a post and any others.

    `ALL_TAGS_COLUMN` may stand for `TAG_COLUMNS`. A column that `names` maps must be there, unless it is `optional`.

    Raises:
        ExportError: a column is missing or named twice.
    """
    canonical = names.canonical(found)
    tags = (ALL_TAGS_COLUMN,) if has_all_tags((*canonical, *names.columns)) else TAG_COLUMNS
    wanted = dict.fromkeys((*(name for name in POST_COLUMNS if name not in TAG_COLUMNS), *tags, *names.columns))
    missing = [names.source(name) for name in wanted if name not in (*canonical, *optional)]
    twice = sorted({name for name in found if found.count(name) > 1})
    if missing or twice:
        problem = f"missing: {','.join(missing)}" if missing else f"twice: {','.join(twice)[:200]}"
        raise ExportError(
            f"{file}: wrong columns: found {','.join(found)[:400]!r}, wanted {','.join(map(names.source, wanted))}; "
            f"{problem}; export these columns or set [posts.columns]"
        )
    return canonical


def has_all_tags(columns: Collection[str]) -> bool:
    """Whether all tags of a post are in one of these `columns`, and none in one of its category's."""
    return ALL_TAGS_COLUMN in columns and not any(name in columns for name in TAG_COLUMNS)
