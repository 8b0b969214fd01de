"""What makes a record of an export invalid, and which columns an export needs.

No tag contains a line break, so a stray quote costs its own record and not the rest of the file. Reasons come from
Python's ``csv`` and the raw record; ``readers/records.py`` finds malformed records fast.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from booru_embed_core.posts.conventions import DANBOORU, NULL_WORDS, Conventions, flag_words
from booru_embed_core.posts.readers.dialect import RFC_4180, Dialect, delimiter_of
from booru_embed_core.posts.tag_fields import TAG_FIELDS, RawValue, field_problem, length_problem
from booru_embed_core.posts.tag_tables.columns import describes_tags
from booru_embed_core.schema import (
    ALL_TAGS_COLUMN,
    FLAG_COLUMNS,
    POST_COLUMNS,
    RATINGS,
    TAG_COLUMNS,
)

MAX_LINE_BYTES: Final = 1 << 20
"""Longer lines are rejected: the longest real record has less than 20 kB, and a reader's buffers must be bounded."""

INT32_RANGE: Final = range(-(2**31), 2**31)

_WHOLE: Final = re.compile(r"(-?[0-9]{1,19})(\.0+)?")
_IF_MISSING: Final = {"id": "", "rating": "; set [posts] missing_rating", "score": "; set [posts] missing_score"}
_DEFAULTS: Final = {"id": "missing_id", "rating": "missing_rating", "score": "missing_score"}


class ExportError(ValueError):
    """The export cannot be read; the message names the file and the remedy in one line."""


class ExportUnreachableError(ExportError):
    """The export did not answer after several attempts; it may answer later."""


class TooManyRejectsError(ExportError):
    """More than the allowed share of the export's records is invalid."""


class ColumnsError(ExportError):
    """A file has not the columns of posts.

    Attributes:
        found: the columns that it has, by its own names.
        missing: those that it lacks, by their canonical names.
        holds_posts: whether it has some columns that only posts have, so that it is no other table.
    """

    def __init__(
        self, message: str, found: Sequence[str] = (), missing: Sequence[str] = (), *, holds_posts: bool = False
    ) -> None:
        super().__init__(message)
        self.found = tuple(found)
        self.missing = tuple(missing)
        self.holds_posts = holds_posts


def decoded(line: bytes) -> tuple[str | None, str]:
    """The problem that keeps `line` from being text (None where there is none), and the text."""
    if len(line) > MAX_LINE_BYTES:
        return f"the line is longer than {MAX_LINE_BYTES} bytes", ""
    try:
        return None, line.decode("utf-8")
    except UnicodeDecodeError as error:
        return (
            f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start}; if the file is in Latin-1 "
            "(Windows-1252), convert it with: iconv -f WINDOWS-1252 -t UTF-8"
        ), ""


def line_problem(
    record: bytes, columns: Sequence[str], dialect: Dialect = RFC_4180, conventions: Conventions = DANBOORU
) -> str | None:
    """Why `record`, without its line end, is no valid post; None for a valid one. `columns` are in the file's order."""
    problem, text = decoded(record)
    if problem:
        return problem
    try:
        fields = dialect.fields(text)
    except csv.Error as error:
        return _form_problem(text, error)
    if len(fields) != len(columns):
        return f"{len(fields)} fields instead of {len(columns)}"
    return values_problem(dict(zip(columns, fields, strict=True)), conventions) or dialect.quote_problem(text)


def _form_problem(text: str, error: csv.Error) -> str:
    num_lines = text.count("\n") + 1
    if num_lines > 1:
        return f"broken quotes: {error} (the record goes on for {num_lines} lines)"
    if "\r" in text:
        return "a carriage return inside the line"
    return f"broken quotes: {error}"


def values_problem(values: Mapping[str, RawValue], conventions: Conventions = DANBOORU) -> str | None:
    """Why these raw values, by canonical column, are no valid post; None for valid ones.

    A value of None is null. Tags are text or a list of text.
    """
    texts = {name: value for name, value in values.items() if not isinstance(value, list)}
    ids = range(0 if conventions.has_site else -(2**63), conventions.max_id + 1)
    problems = itertools.chain(
        () if conventions.missing_id else (_number_problem("id", texts.get("id"), ids, conventions),),
        (_rating_problem(texts.get("rating"), conventions),),
        (_number_problem("score", texts.get("score"), INT32_RANGE, conventions),),
        (_flag_problem(name, texts[name], conventions) for name in FLAG_COLUMNS if name in texts),
        (field_problem(name, values[name], conventions) for name in TAG_FIELDS if name in values),
        (length_problem(values, conventions),),
    )
    return next(filter(None, problems), None)


def is_nothing(value: str | None) -> bool:
    """Whether `value` of a column of numbers or ratings is null or a word for it."""
    return value is None or value == "" or value in NULL_WORDS


def _flag_problem(column: str, value: str | None, conventions: Conventions) -> str | None:
    true, false = flag_words(column, conventions)
    if value is None or false is None or value in (*true, *false):
        return None
    return f"{column} {value[:40]!r} is neither true nor false; set [posts.true_values] {column}"


def _number_problem(column: str, value: str | None, allowed: range, conventions: Conventions) -> str | None:
    default = getattr(conventions, _DEFAULTS[column])
    if value is None or is_nothing(value):
        return f"{column} is missing{_IF_MISSING[column]}" if default is None else None
    number = _WHOLE.fullmatch(value)
    if number and int(number[1]) in allowed:
        return None
    return f"{column} {value[:40]!r} is not a whole number from {allowed[0]} to {allowed[-1]}"


def _rating_problem(value: str | None, conventions: Conventions) -> str | None:
    if value is not None and value in conventions.ratings:
        return None
    if value is None or is_nothing(value):
        return f"rating is missing{_IF_MISSING['rating']}" if conventions.missing_rating is None else None
    return f"rating {value[:40]!r} is not one of {', '.join(RATINGS)}; say which one it is in [posts.rating_names]"


def columns_of(header: bytes, file: Path, conventions: Conventions = DANBOORU) -> tuple[str, ...]:
    """The canonical names of the columns of `header`, a file's first line, in its order.

    Raises:
        ExportError: a column is missing or named twice.
    """
    if header.count(b"\0") > len(header) // 3:
        raise ExportError(
            f"{file}: looks like UTF-16 without a byte order mark; convert it: iconv -f UTF-16LE -t UTF-8 {file.name}"
        )
    if header.removeprefix(b"\xef\xbb\xbf").startswith(b"sep="):
        raise ExportError(f"{file}: begins with Excel's line {header[:6].decode(errors='replace')!r}; remove that line")
    if b"\r" in header.rstrip(b"\r"):
        raise ExportError(
            f"{file}: its lines end with a carriage return alone; convert it: tr '\\r' '\\n' < {file.name} > lines.csv"
        )
    try:
        text = header.decode("utf-8-sig").rstrip("\r")
        found = tuple(next(csv.reader([text], delimiter=delimiter_of(header), strict=True), ()))
    except (UnicodeDecodeError, csv.Error):
        raise ExportError(
            f"{file}: the first line is no header of CSV or TSV in UTF-8: {header[:80]!r}; wanted the columns "
            + ",".join(map(conventions.source, POST_COLUMNS))
        ) from None
    return check_columns(found, file, conventions)


def check_columns(
    found: Sequence[str], file: Path, conventions: Conventions = DANBOORU, optional: Collection[str] = ()
) -> tuple[str, ...]:
    """The canonical names of the columns `found`, which hold those of a post and any others.

    `ALL_TAGS_COLUMN` may stand for `TAG_COLUMNS`. A column that `conventions` map must be there, unless it is
    `optional` or mapped to ``""``. The settings may allow posts without an id, a rating or a score.

    Raises:
        ColumnsError: a column is missing or named twice.
    """
    canonical = conventions.canonical(found)
    given = [name for name, source in conventions.columns.items() if source and name not in conventions.optional]
    tags = (ALL_TAGS_COLUMN,) if has_all_tags((*canonical, *given)) else TAG_COLUMNS
    wanted = dict.fromkeys((*_DEFAULTS, *tags, *given))
    absent = {name for name, source in conventions.columns.items() if not source}
    absent |= {name for name, default in _DEFAULTS.items() if getattr(conventions, default) is not None}
    missing = [name for name in wanted if name not in (*canonical, *absent, *optional)]
    twice = sorted({name for name in found if found.count(name) > 1})
    if not any(name in canonical for name in TAG_FIELDS) and not missing:
        missing = list(tags)
    if missing or twice:
        sources = [conventions.source(name) or name for name in missing]
        problem = f"missing: {','.join(sources)}" if missing else f"twice: {repr(','.join(twice))[1:-1][:200]}"
        raise ColumnsError(
            f"{file}: wrong columns: found {repr(','.join(found))[:400]}, wanted "
            f"{','.join(conventions.source(name) or name for name in wanted)}; {problem}; {_remedy(missing, found)}",
            found,
            missing,
            holds_posts=any(name in canonical for name in ("rating", *TAG_FIELDS)),
        )
    return canonical


def _remedy(missing: Sequence[str], found: Sequence[str]) -> str:
    if describes_tags(found):
        return (
            "this is a table of tags: name it under [posts] tag_categories or [posts] aliases, and posts under "
            "[posts] export"
        )
    remedies = ["export these columns or set [posts.columns]"]
    if any(_WHOLE.fullmatch(name) for name in found):
        remedies.insert(0, "the first line looks like a post and no header: write the names of the columns above")
    remedies += [f"set [posts] {_DEFAULTS[name]} if there is none" for name in missing if name in _DEFAULTS]
    if missing and set(missing) < set(TAG_COLUMNS):
        absent = ", ".join(f'{name} = ""' for name in missing)
        remedies.append(f"set [posts.columns] {absent} if there is none")
    return "; ".join(remedies)


def has_all_tags(columns: Collection[str]) -> bool:
    """Whether all tags of a post are in one of these `columns`, and none in one of its category's."""
    return ALL_TAGS_COLUMN in columns and not any(name in columns for name in TAG_COLUMNS)
