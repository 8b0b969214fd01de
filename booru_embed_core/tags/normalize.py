r"""Spelling: what people type for one tag, and the signs that prompts put around it.

This module sees only the text of one piece and knows no vocabulary. `names` looks tags up, `pieces` cuts whole texts.

    (tracer (overwatch):1.2)   →   the same, …, "tracer (overwatch)", …   the first that is a tag is meant
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from booru_embed_core.schema import CATEGORIES

PREFIXES: Final = {
    **{category.value: category_id for category_id, category in enumerate(CATEGORIES)},
    "gen": 0,
    "art": 1,
    "copy": 2,
    "co": 2,
    "char": 3,
    "ch": 3,
}
"""The category_id of each prefix that names a tag's category before a colon: Danbooru's names and short ones."""

NARROW: Final = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: " ",
    0x060C: ",",  # Arabic comma and semicolon
    0x061B: ",",
    0x3001: ",",  # ideographic comma and full stop
    0x3002: ",",
    0xFF61: ",",
    0xFF64: ",",
    **dict.fromkeys((0x300C, 0x300D, 0x300E, 0x300F, 0x201C, 0x201D, 0x201E, 0xAB, 0xBB), '"'),
    **dict.fromkeys((0x2018, 0x2019), "'"),
    **dict.fromkeys((0x3010, 0x3014), "["),
    **dict.fromkeys((0x3011, 0x3015), "]"),
}
"""For `str.translate`: the ASCII sign for each full-width one, and for the commas, quotes and brackets of others."""

NUMBER: Final = r"[-+]?(?:\d{1,2}(?:\.\d{1,4})?|\.\d{1,4})"
"""A weight as a regular expression: at most two digits before the point, so `(reverse:1999)` has none."""
OPENING: Final = "([{"
CLOSING: Final = ")]}"
PARTNER: Final = dict(zip(CLOSING, OPENING, strict=True))

_ESCAPED_BRACKET: Final = re.compile(r"\\([()\[\]{}])")
_ESCAPED: Final = re.compile(r"\\([()\[\]{}<>|:;,_*~\"'\\])")
_LETTER: Final = re.compile(r"\w")
_MAX_SIGNS: Final = 4
"""Opening signs that may belong to a tag, and half of the closing ones; those further out never do."""
_TAIL: Final = 24
"""More characters than a closing sign has, with the spaces within."""

_OPEN: Final = re.compile(
    rf"\s*(?:(?P<bracket>[(\[{{])(?P<is_list>(?<=[\[{{])(?=\s*[\"'`]))?|(?P<number>{NUMBER})::|(?P<count>(?:\d+(?:-\d*)?|-\d+)\$\$)"
    r"|(?P<minus>-(?=[\w(\[{\"]))|(?P<quote>[\"'`]))"
)
_CLOSE: Final = re.compile(
    rf"(?:(?P<bracket>(?<!\\)[)\]}}])|(?<=[)\]}}])(?P<suffix>\d{{1,2}}(?:\.\d{{1,4}})?|\.\d{{1,4}})"
    rf"|(?P<step>[+-])|\s{{0,2}}:\s{{0,2}}(?P<number>{NUMBER})|(?P<end>::)|(?P<quote>[\"'`.!?\u2026]))\s*\Z"
)


class Sign(NamedTuple):
    """A sign before or behind a tag.

    `kind` is a bracket, ``::`` (the emphasis of NovelAI, opened by its number), ``:`` (a weight before a bracket or at
    the end), ``+`` (a weight behind a bracket or a word, as InvokeAI has it), ``-`` (a minus before a tag), or empty
    for quotes, full stops, exclamation marks and counts, which weigh nothing.
    """

    kind: str
    value: float = 1.0
    is_list: bool = False
    """Whether a quote follows the bracket, as in a list or table of JSON."""


_BRACKETS: Final = {bracket: Sign(bracket) for bracket in OPENING + CLOSING}


@dataclass(frozen=True)
class Signs:
    """The signs at both ends of a piece.

    Attributes:
        starts: where the piece may start: before all opening signs, after the first, and so on; one more than `opens`.
        opens: the opening signs from the outermost inwards.
        ends: where it may end, from the outermost inwards; one more than `closes`.
        closes: the closing signs from the outermost inwards.
    """

    starts: list[int]
    opens: list[Sign]
    ends: list[int]
    closes: list[Sign]

    @classmethod
    def of(cls, piece: str) -> Signs:
        """The signs of `piece`, in linear time."""
        starts, opens = [0], []
        while match := _OPEN.match(piece, starts[-1]):
            starts.append(match.end())
            opens.append(_opening(match))
        ends, closes = [len(piece)], []
        while ends[-1]:
            end = ends[-1]
            sign = _BRACKETS.get(piece[end - 1])
            if sign is not None and sign.kind in PARTNER and piece[end - 2 : end - 1] != "\\":
                ends.append(end - 1)
                closes.append(sign)
                continue
            match = _CLOSE.search(piece, max(0, end - _TAIL), end)
            if match is None:
                break
            ends.append(match.start())
            closes.append(_closing(match))
        return cls(starts, opens, ends, closes)

    def removals(self) -> Iterator[tuple[int, int]]:
        """How many opening and closing signs to remove, the fewest first, then the most even."""
        first, last = len(self.opens), len(self.closes)
        pairs = itertools.product(
            range(max(0, first - _MAX_SIGNS), first + 1), range(max(0, last - 2 * _MAX_SIGNS), last + 1)
        )
        if first + last == 0:
            return iter([(0, 0)])
        return iter(sorted(pairs, key=lambda pair: (sum(pair), abs(pair[0] - pair[1]))))

    def enclosed(self, piece: str) -> tuple[int, int]:
        """How many signs of an unknown `piece` are around its name: all but closing brackets that pair within it.

        A piece without letters and opening signs keeps its brackets, as in ``:)``.
        """
        first = len(self.opens)
        inside = piece[self.starts[-1] : max(self.starts[-1], self.ends[-1])]
        depth = sum(map(_depth, _ESCAPED_BRACKET.sub("", inside)))
        last = len(self.closes)
        if not first and not _LETTER.search(inside) and all(sign.kind in PARTNER for sign in self.closes):
            depth = last
        while last and depth > 0:
            last -= 1
            depth -= self.closes[last].kind in PARTNER
        return first, last

    def bare(self, piece: str) -> str:
        """An unknown `piece` as messages name it: without the signs around it, with underscores for white space."""
        num_opens, num_closes = self.enclosed(piece)
        name = piece[self.starts[num_opens] : self.ends[num_closes]]
        return joined(unescaped(name)) or joined(unescaped(piece))


def _depth(character: str) -> int:
    return 1 if character in OPENING else -1 if character in CLOSING else 0


def _opening(match: re.Match[str]) -> Sign:
    if match["bracket"]:
        return _BRACKETS[match["bracket"]] if match["is_list"] is None else Sign(match["bracket"], is_list=True)
    if match["number"]:
        return Sign("::", float(match["number"]))
    return Sign("-", -1.0) if match["minus"] else Sign("")


def _closing(match: re.Match[str]) -> Sign:
    if match["bracket"]:
        return _BRACKETS[match["bracket"]]
    if match["suffix"]:
        return Sign("+", float(match["suffix"]))
    if match["step"]:
        return Sign("+", 1.1 if match["step"] == "+" else 0.9)
    if match["number"]:
        return Sign(":", float(match["number"]))
    return Sign("::" if match["end"] else "")


def joined(piece: str) -> str:
    """`piece` with underscores for white space."""
    return "_".join(piece.split())


def unescaped(piece: str) -> str:
    r"""`piece` with ``(`` for ``\(``, and so on."""
    return _ESCAPED_BRACKET.sub(r"\1", piece)


def unescaped_all(piece: str) -> str:
    r"""`piece` without the backslashes before signs, also ``\`` for ``\\``."""
    return _ESCAPED.sub(r"\1", piece)


def bare(piece: str) -> str:
    """An unknown `piece` as messages name it: without the signs around it, and with underscores for white space."""
    return Signs.of(piece).bare(piece)
