"""How a CSV or TSV file separates, quotes and escapes its fields.

RFC 4180 is the rule. Three more dialects are read where a file shows them (``dialect_found.py``): TSV without quoting,
as csv2tsv writes it; quoted fields with backslash escapes, as Spark and MySQL write them; and the text format of
PostgreSQL and MySQL, which has escapes and no quotes.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import Final

_FIELD_BYTES: Final = 1 << 30

# Code points that Unicode keeps free for use inside a program; no text holds them.
_QUOTE_MARK, _DELIMITER_MARK, _BREAK_MARK, _RETURN_MARK, JOINT = (chr(0xFDD0 + index).encode() for index in range(5))
"""``JOINT`` stands before a line break that is escaped by a backslash, where there are no quotes."""
_LETTERS: Final = {b"b": b"\b", b"f": b"\f", b"v": b"\v", b"n": _BREAK_MARK, b"r": _RETURN_MARK}


@dataclass(frozen=True)
class Dialect:
    """The dialect of a file; by default that of RFC 4180."""

    delimiter: str = ","
    """A comma, a tab, a semicolon or a vertical bar."""
    quote: str = '"'
    """What fields may stand in; ``""`` where a quote is a character like any other."""
    escape: str = '"'
    r"""What escapes a quote within quotes: ``"`` (doubled) or ``\``. Without quotes ``\`` or ``""``, no escape."""

    @property
    def has_backslashes(self) -> bool:
        """Whether a backslash escapes what follows it."""
        return self.escape == "\\"

    def __str__(self) -> str:
        names = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar"}
        quoting = "no quotes" if not self.quote else "quotes"
        escapes = {'"': "doubled", "\\": "escaped by backslashes" if self.quote else "backslash escapes"}
        return ", ".join(filter(None, [names[self.delimiter], quoting, escapes.get(self.escape)]))

    def without_escapes(self, text: bytes) -> bytes:
        """`text` with each backslash escape replaced: by a mark, where its character would change the form.

        A whole field that is ``\\N`` becomes empty. Physical lines stay lines.
        """
        if not self.has_backslashes or b"\\" not in text:
            return text
        delimiter = re.escape(self.delimiter.encode())
        # A pattern that begins with a backslash skips quickly to the next one.
        null = rb"(?:(?<=[\n" + delimiter + rb"]\\)|(?<=^\\))N(?=[\r\n" + delimiter + rb"]|\Z)"
        return re.sub(rb"\\(?:" + null + rb"|(.))", self._unescaped, text, flags=re.DOTALL)

    def _unescaped(self, match: re.Match[bytes]) -> bytes:
        character = match[1]
        if character is None:
            return b""
        if character == b"\\":
            return character
        if character == b'"':
            return _QUOTE_MARK if self.quote else character
        if character == b"\n":
            return character if self.quote else JOINT + character
        if not self.quote:
            if character == self.delimiter.encode() or (character, self.delimiter) == (b"t", "\t"):
                return _DELIMITER_MARK
            return _LETTERS.get(character, b"\t" if character == b"t" else match[0])
        return match[0]

    def with_characters(self, value: str) -> str:
        """The field `value`, split off a text without escapes, with a character for each mark."""
        for mark, character in self.marks.items():
            value = value.replace(mark, character)
        return value

    @property
    def marks(self) -> dict[str, str]:
        """The character that each mark of a text without escapes stands for."""
        if not self.has_backslashes:
            return {}
        marks = {_QUOTE_MARK: '"', _DELIMITER_MARK: self.delimiter, _BREAK_MARK: "\n", _RETURN_MARK: "\r"}
        return {mark.decode(): character for mark, character in marks.items()}

    def fields(self, text: str) -> list[str]:
        """The fields of the record `text`.

        Raises:
            csv.Error: its quotes are broken, or a line break stands outside of quotes.
        """
        text = self._plain(text)
        if text.endswith(("\r", "\n")):
            raise csv.Error("a line break outside of quotes")  # the csv module takes it for the end of the line
        if self.quote:
            values = _rfc_fields(text, self.delimiter)
        elif "\n" in text or "\r" in text:
            raise csv.Error("a line break that is not escaped")
        else:
            values = text.split(self.delimiter)
        return [self.with_characters(value) for value in values]

    def _plain(self, text: str) -> str:
        return joined(self.without_escapes(text.encode())).decode() if self.has_backslashes else text

    def quote_problem(self, text: str) -> str | None:
        """The problem of a quote inside a field that is not quoted itself: parsers disagree about it."""
        if not self.quote or '"' not in text:
            return None
        pieces = self._plain(text).split('"')
        outside = pieces[::2]
        # Text outside of quotes is empty (an escaped quote) or reaches from delimiter to delimiter.
        starts = all(piece[:1] in ("", self.delimiter) for piece in outside[1:])
        ends = all(piece[-1:] in ("", self.delimiter) for piece in outside[:-1])
        if len(pieces) % 2 == 1 and starts and ends:
            return None
        return "a quote inside a field that is not quoted"


RFC_4180: Final = Dialect()


def joined(text: bytes) -> bytes:
    """`text` with a mark for each line break that a `JOINT` stands before."""
    return text.replace(JOINT + b"\n", _BREAK_MARK)


def _rfc_fields(text: str, delimiter: str) -> list[str]:
    # The csv module limits a field to 128 kB.
    before = csv.field_size_limit(_FIELD_BYTES)
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [""])
    finally:
        csv.field_size_limit(before)


def delimiter_of(header: bytes) -> str:
    """The delimiter of `header`, a file's first line: a tab where it holds one, since no column's name does.

    Else the most frequent one of comma, semicolon and vertical bar; a comma where there is none.
    """
    if b"\t" in header:
        return "\t"
    return max((",", ";", "|"), key=lambda delimiter: header.count(delimiter.encode()))
