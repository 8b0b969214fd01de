r"""Which dialect a CSV or TSV file is in, told by its first `SAMPLE_BYTES`.

RFC 4180 is the rule. Another dialect needs proof: each record that is well formed by RFC 4180 is so in that dialect
too, more records are, and no field shows the quoting of RFC 4180. Or each backslash is one that databases write, and
some field shows that they did.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from booru_embed_core.posts.readers.dialect import Dialect
from booru_embed_core.posts.readers.records import Layout, Records, find_records

SAMPLE_BYTES: Final = 16 << 20
"""In Danbooru's own export, one post in 2,700 has a tag with a quote: about one a megabyte."""

# What databases escape: any other backslash is not theirs.
_BARE_ESCAPES: Final = re.compile(rb'\\(?:[\\bfnrtv0"\t\n]|(?<=[\t\n]\\)N(?=[\t\r\n]))')
_QUOTED_ESCAPES: Final = re.compile(rb'\\(?:[\\"0\n]|(?<=[,;|\n]\\)N(?=[,;|\r\n]))')
_NULL_FIELD: Final = re.compile(rb"\\(?<=[,;|\t\n]\\)N(?=[,;|\t\r\n])")


@dataclass(frozen=True)
class _Look:
    """How a sample looks in one dialect."""

    layout: Layout
    records: list[tuple[bytes, Records]]
    bad_lines: frozenset[int]

    def good_with(self, text: bytes) -> Iterator[bytes]:
        """The well-formed records that hold `text`."""
        for block, records in self.records:
            for index in np.flatnonzero(~records.is_bad).tolist() if text in block else ():
                record = block[records.starts[index] : records.ends[index]]
                if text in record:
                    yield record


def dialect_of(sample: Sequence[bytes], layout: Layout, *, is_whole: bool) -> Layout:
    """`layout`, which is that of RFC 4180, in the dialect of the `sample`: the first lines below the header.

    `is_whole` says that the file ends with the sample.
    """
    has_quotes, has_backslashes = (any(character in block for block in sample) for character in (b'"', b"\\"))
    if not has_quotes and not has_backslashes:
        return layout
    rule = _look(sample, layout, is_whole=is_whole)
    is_tab = layout.dialect.delimiter == "\t"
    is_escaped = has_backslashes and _shows_escapes(sample, is_tab=is_tab)
    if not rule.bad_lines and not is_escaped:
        return layout
    looks = {}
    for quote, escape in _candidates(has_backslashes, is_escaped, is_tab):
        dialect = Dialect(layout.dialect.delimiter, quote, escape)
        look = _look(sample, dataclasses.replace(layout, dialect=dialect), is_whole=is_whole)
        if look.bad_lines <= rule.bad_lines and not _is_contradicted(look, rule):
            looks[quote, escape] = look
    fixing = [look for look in looks.values() if look.bad_lines < rule.bad_lines]
    shown = looks.get(("", "\\") if is_tab else ('"', "\\")) if is_escaped else None
    if not fixing:
        return shown.layout if shown else layout
    return min(fixing, key=lambda look: len(look.bad_lines)).layout


def _candidates(has_backslashes: bool, is_escaped: bool, is_tab: bool) -> Iterator[tuple[str, str]]:
    """Quote and escape of the dialects to try, the more usual ones first."""
    if has_backslashes:
        yield '"', "\\"
    # A tab and a tag such as `\\n/` or `:\\` are not escapes, unless all are.
    if has_backslashes and (is_escaped or not is_tab):
        yield "", "\\"
    if is_tab:
        yield "", ""


def _look(sample: Sequence[bytes], layout: Layout, *, is_whole: bool) -> _Look:
    records: list[tuple[bytes, Records]] = []
    bad: list[int] = []
    pending, num_lines = b"", 0
    for index, block in enumerate(sample):
        pending += layout.dialect.without_escapes(block)
        found = find_records(pending, layout, is_last=is_whole and index == len(sample) - 1)
        records.append((pending, found))
        is_bad = found.is_bad
        for first, count in zip(found.first_line[is_bad].tolist(), found.num_lines_of[is_bad].tolist(), strict=True):
            bad.extend(range(num_lines + first, num_lines + first + count))
        num_lines += found.num_lines
        pending = pending[found.num_bytes :]
    return _Look(layout, records, frozenset(bad))


def _is_contradicted(look: _Look, rule: _Look) -> bool:
    if look.layout.dialect.quote:
        return _shows_doubled_quotes(rule)
    return _shows_quoting(rule)


def _shows_escapes(sample: Sequence[bytes], *, is_tab: bool) -> bool:
    """Whether every backslash is a database's, and one shows that there is nothing in a field, or stands for itself."""
    escapes = _BARE_ESCAPES if is_tab else _QUOTED_ESCAPES
    has_null = has_pair = has_quote = False
    for block in sample:
        text = b"\n" + block
        if b"\\" in escapes.sub(b"", text):
            return False
        has_null = has_null or _NULL_FIELD.search(text) is not None
        has_pair, has_quote = has_pair or rb"\\" in text, has_quote or rb"\"" in text
    return has_null or has_pair if is_tab else has_null and (has_pair or has_quote)


def _shows_doubled_quotes(rule: _Look) -> bool:
    """Whether a well-formed record has a doubled quote within a quoted field."""
    delimiter = re.escape(rule.layout.dialect.delimiter.encode())
    other = rb"[^" + delimiter + rb'"\r\n]'
    doubled = re.compile(rb'""' + other + rb"|" + other + rb'""')
    return any(doubled.search(record) for record in rule.good_with(b'""'))


def _shows_quoting(rule: _Look) -> bool:
    """Whether a well-formed record has a field that makes no sense unless its quotes are those of RFC 4180."""
    return any(_is_quoted(record, rule.layout) for record in rule.good_with(b'"'))


def _is_quoted(record: bytes, layout: Layout) -> bool:
    fields = record.removesuffix(b"\r").split(layout.dialect.delimiter.encode())
    if len(fields) != layout.num_columns:
        return True
    wrapped = [field[1:-1] for field in fields if len(field) > 1 and field[:1] == field[-1:] == b'"']
    has_quoted_id = layout.id_column is not None and fields[layout.id_column].startswith(b'"')
    return has_quoted_id or any(not inner or b" " in inner or b'""' in inner for inner in wrapped)
