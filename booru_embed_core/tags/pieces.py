"""Cuts a text into pieces, each of which names one tag, or several with spaces between them.

    (cat ears, tracer (overwatch):1.2) BREAK [hat|bow] solo
    →   "(cat ears", "tracer (overwatch):1.2)", "[hat", "bow]", "solo"

Brackets stay with their pieces: only a look at the vocabulary tells whether one belongs to a tag.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from booru_embed_core.tags.normalize import CLOSING, NUMBER, OPENING, PARTNER

_SCAN: Final = (
    r"\\[^,\n|;]|(?P<bracket>[()\[\]{}])|(?P<pipe>\|)|(?P<hard>[,;\n])|(?P<tab>\t)|(?P<end>::(?=\s))|(?P<colon>:)"
    rf"|(?P<start>(?<![^\s({{|]){NUMBER}::(?=[^\s,;)\]}}:])(?!{NUMBER}\s?\]))|(?P<word>(?<![^\s,])(?:BREAK|AND(?:_[A-Z]{{2,9}})?|ADD(?:COMM|BASE|ROW|COL))(?![^\s,]))"
)
_MAY_BE_CUT: Final = re.compile(r"[,;|\n\t]|::|:\d")
_BRACKET: Final = re.compile(r"[()\[\]{}]")
_PLAIN: Final = re.compile(r"(?:[^,;|\n\t:()\[\]{}]++(?:\([^,;|\n\t:()\[\]{}]*+\))?)++\Z")
"""Most names by far: neither separators nor colons, and no brackets but single pairs of round ones."""
_SIGNS: Final = frozenset(",;|\n\t:()[]{}")
"""A name that is not cut has one of them, and what names it in a text has the same ones."""
_LOOSE: Final = {**dict.fromkeys(map(ord, " -\t\n\r\v\f\x1c\x1d\x1e\x1f"), "_"), ord("\\"): None}
"""Signs that `_pattern` takes for each other, of ASCII; backslashes may be left out or added."""
_WEIGHT_AT_END: Final = re.compile(rf"\s*:\s*({NUMBER})\s*\Z")
_SUFFIX: Final = re.compile(r"(?:\d{1,2}(?:\.\d{1,4})?|\.\d{1,4}|[+-]{1,20})?(?=\s)")
_MAX_COLONS: Final = 8
_LONGEST_SIDE: Final = 300
_SEPARATOR: Final = re.compile(r"[,;|\n]")


class KnownNames(NamedTuple):
    """Whether a text names a tag: `is_bare` by itself, `is_name` also with signs around it."""

    is_bare: Callable[[str], bool]
    is_name: Callable[[str], bool]


_NO_NAMES: Final = KnownNames(lambda _: False, lambda _: False)


class Piece(NamedTuple):
    """A part ``text[start:end]`` of the cut text.

    `before` is what separates it from the piece before: ``,`` for any comma or line break, ``|``, ``:`` within prompt
    editing, or empty. `weight` is that of its part of a text with ``AND``.
    """

    start: int
    end: int
    before: str
    weight: float


class CutText(NamedTuple):
    """The pieces of a text in order; `is_list`: whether commas, line breaks or the like separate them."""

    pieces: list[Piece]
    is_list: bool


class _Cut(NamedTuple):
    start: int
    end: int
    kind: str


@dataclass
class _Bracket:
    position: int
    character: str
    has_pipe: bool = False
    colons: list[int] = field(default_factory=list)


class PieceCutter:
    """Cuts texts for one vocabulary.

    Args:
        names: all names of tags; those that contain separators are not cut.
        words: the names that stand for a tag in this spelling.
    """

    def __init__(self, names: Iterable[str], words: Collection[str]) -> None:
        self._words = words
        self._kept: dict[frozenset[str], list[str]] = {}
        """The names that are not cut, by the signs that each has."""
        kept = [
            name
            for name in itertools.filterfalse(_PLAIN.match, names)
            if (_MAY_BE_CUT.search(name) and self._is_cut(name)) or (_BRACKET.search(name) and _is_unbalanced(name))
        ]
        for name in kept:
            self._kept.setdefault(_SIGNS.intersection(name), []).append(name)

    def cut(self, text: str, names: KnownNames, notes: list[str]) -> CutText:
        """The pieces of `text`, without empty ones."""
        scan = _Scan(text, names, self._words)
        for match in re.compile(self._pattern_for(text)).finditer(text):
            scan.read(match)
        scan.finish()
        notes += scan.notes
        return CutText(scan.pieces(), scan.is_list)

    def _pattern_for(self, text: str) -> str:
        """What is searched for in `text`: of the names that are not cut, those that may be in it.

        With all of a large vocabulary, compiling it takes as long as everything else before a first completion.
        """
        signs, plain = _SIGNS.intersection(text), text.translate(_LOOSE).lower()
        named = [name for own, names in self._kept.items() if own <= signs for name in names]
        if text.isascii():  # (?i) takes a few other letters for letters of ASCII
            named = [name for name in named if not name.isascii() or name.translate(_LOOSE).lower() in plain]
        if not named:
            return _SCAN
        kept = "|".join(map(_pattern, sorted(named, key=len, reverse=True)))
        whole = rf"(?<![^\s,;(\[{{|:\"'])(?:{kept})(?=$|[\s,;)\]}}|:\"'.!?+-])"
        return f"(?P<tag>(?i:{whole}))|{_SCAN}"

    def _is_cut(self, name: str) -> bool:
        spaced = name.replace("_", " ")
        return any(len(self.cut(typed, _NO_NAMES, []).pieces) != 1 for typed in (name, spaced, f"({spaced} )"))


class _Scan:
    """One text while it is cut."""

    def __init__(self, text: str, names: KnownNames, words: Collection[str]) -> None:
        self.text = text
        self.is_list = False
        self.notes: list[str] = []
        self._names = names
        self._words = words
        self._cuts: list[_Cut] = []
        self._tabs: list[int] = []
        self._open: list[_Bracket] = []
        self._num_open = dict.fromkeys(OPENING, 0)
        self._part_weights: list[tuple[int, float]] = []
        """Where each part of a text with ``AND`` ends, and its weight."""

    def read(self, match: re.Match[str]) -> None:
        """Takes the next sign or word of the text; they come in order."""
        start, end = match.span()
        match match.lastgroup:
            case "tag" if match.group().endswith(";"):
                self._end_at_semicolon(start, end - 1)
            case "bracket" if match.group() in OPENING:
                self._open.append(_Bracket(start, match.group()))
                self._num_open[match.group()] += 1
            case "bracket":
                self._close(start, match.group())
            case "pipe":
                self._cuts.append(_Cut(start, end, "|"))
                if self._open:
                    self._open[-1].has_pipe = True
                else:
                    self.is_list = True
            case "hard":
                self._cuts.append(_Cut(start, end, ","))
                self.is_list = True
            case "tab":
                self._tabs.append(start)
            case "end":
                self._cuts.append(_Cut(end, end, ""))
            case "start" if self.text[max(0, start - 1) : start].isspace():
                self._cuts.append(_Cut(start, start, ""))
            case "colon" if self._open and self._open[-1].character == "[":
                self._open[-1].colons.append(start)
            case "word" if match.group() not in self._words:
                self._separate(match.group(), start, end)

    def finish(self) -> None:
        """Settles what depends on the whole text; comes between the last `read` and `pieces`."""
        if self._part_weights:
            self._end_part(len(self.text))
        if not self.is_list and self._tabs:  # in a list, tabs are spaces
            self._cuts += [_Cut(tab, tab + 1, ",") for tab in self._tabs]
            self.is_list = True
        self._cuts.sort()

    def pieces(self) -> list[Piece]:
        """The stretches between the cuts, in order, without those of white space alone."""
        found: list[Piece] = []
        start, before, part = 0, "", 0
        for cut in [*self._cuts, _Cut(len(self.text), len(self.text), "")]:
            if cut.start >= start:
                weight = 1.0
                if self._part_weights:
                    while part < len(self._part_weights) - 1 and self._part_weights[part][0] <= start:
                        part += 1
                    weight = self._part_weights[part][1]
                if not self.text[start : cut.start].isspace() and start < cut.start:
                    found.append(Piece(start, cut.start, before, weight))
                    before = ""
                start = cut.end
                before = cut.kind or before
        return found

    def _close(self, position: int, character: str) -> None:
        """Closes the nearest bracket of this kind, and with it those that are still open within."""
        if not self._num_open[PARTNER[character]]:
            return
        while (opened := self._open.pop()).character != PARTNER[character]:
            self._num_open[opened.character] -= 1
        self._num_open[opened.character] -= 1
        # Only the last characters: a number is short, and a slice of everything would be quadratic.
        weight = _WEIGHT_AT_END.search(self.text, max(opened.position, position - 16), position)
        if (opened.has_pipe or weight) and self.text[max(0, opened.position - 1) : opened.position].isspace():
            self._cuts.append(_Cut(opened.position, opened.position, ""))
        if weight and character == "]":
            self._cut_editing(opened, weight.start())
        suffix = _SUFFIX.match(self.text, position + 1)
        if suffix and (opened.has_pipe or weight or suffix.group()):
            self._cuts.append(_Cut(suffix.end(), suffix.end(), ""))

    def _cut_editing(self, opened: _Bracket, end: int) -> None:
        """Cuts ``[from:to:0.5]`` between its tags, at the colon that leaves tags on both sides, or on one."""
        start = opened.position + 1
        colons = [colon for colon in opened.colons[: _MAX_COLONS + 1] if colon < end]
        if not colons or self._names.is_bare(self.text[start : min(end, start + _LONGEST_SIDE)]):
            return

        def fit(colon: int) -> tuple[int, bool, int]:
            left = self.text[max(start, colon - _LONGEST_SIDE) : colon].rpartition(",")[2].strip()
            right = self.text[colon + 1 : min(end, colon + _LONGEST_SIDE)].partition(",")[0].strip()
            scores = [
                1 if not side else 2 if self._names.is_bare(side) else int(self._names.is_name(side))
                for side in (left, right)
            ]
            # Of several with a tag on one side, that with the longest tag.
            return sum(scores), scores[0] > 0, colon if scores[0] else -colon

        colon = max(colons, key=fit)
        self._cuts.append(_Cut(colon, colon + 1, ":"))

    def _separate(self, word: str, start: int, end: int) -> None:
        left, right = self.text[max(0, start - _LONGEST_SIDE) : start], self.text[end : end + _LONGEST_SIDE]
        around = _SEPARATOR.split(left)[-1] + word + _SEPARATOR.split(right, maxsplit=1)[0]
        if self._names.is_name(around):  # `KIRBY AND THE AMAZING MIRROR`
            return
        if word.startswith("AND"):  # AND_PERP, AND_SALT and the like are of Neutral Prompt
            if not left.strip() or not right.strip():
                return
            self._end_part(start)
            self.notes.append(f"{word}: joins prompts, left out")
        else:
            self.notes.append(f"{word}: left out")
        self._cuts.append(_Cut(start, end, ""))

    def _end_at_semicolon(self, start: int, semicolon: int) -> None:
        """Cuts at a semicolon that ends a name, such as ``3;``, if what ends before it is a longer tag."""
        before = self.text[max(0, start - _LONGEST_SIDE) : start]
        before = before[max(before.rfind(separator) for separator in ",;|\n") + 1 :]
        name = before + self.text[start:semicolon]
        if before.strip() and any(
            map(self._names.is_bare, (name,) if before[-1].isspace() else (name, name.split()[-1]))
        ):
            self._cuts.append(_Cut(semicolon, semicolon + 1, ","))
            self.is_list = True
        elif self.text[semicolon + 1 : semicolon + 2].isspace():
            self._cuts.append(_Cut(semicolon + 1, semicolon + 1, ""))

    def _end_part(self, end: int) -> None:
        tail = self.text[max(0, end - 24) : end]
        weight = _WEIGHT_AT_END.search(tail)
        if weight and tail[weight.start() :].strip() not in self._words:
            start = end - (len(tail) - weight.start())
            self._cuts.append(_Cut(start, end, ""))
            self._part_weights.append((end, float(weight[1])))
        else:
            self._part_weights.append((end, 1.0))


def _pattern(name: str) -> str:
    """A regular expression of `name` as people may type it."""
    parts = dict.fromkeys("_-", r"[_\s-]") | {
        character: rf"\\{{0,2}}{re.escape(character)}" for character in "()[]{}\\"
    }
    return "".join(parts.get(character, re.escape(character)) for character in name)


def _is_unbalanced(name: str) -> bool:
    """Whether a bracket of `name` has no partner in it, as in ``>:(``."""
    opened: list[str] = []
    for character in name:
        if character in OPENING:
            opened.append(character)
        elif character in CLOSING and (not opened or opened.pop() != PARTNER[character]):
            return True
    return bool(opened)
