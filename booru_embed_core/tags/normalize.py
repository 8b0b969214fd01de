"""Cuts typed text into pieces that stand for one tag each, and strips what prompts put around tags.

This module sees only the text, and `known`: the words that are tags unchanged, which it never alters. `tokenizer` looks
up the tag of a piece.

    (cat ears, tracer (overwatch):1.2) BREAK <lora:x:1> solo   →   "(cat ears", "tracer (overwatch):1.2)", "solo"
    tracer (overwatch):1.2)   →   the same, "tracer (overwatch):1.2", "tracer (overwatch)", …   the first tag is meant
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from booru_embed_core.schema import CATEGORIES, TAG_SEPARATOR

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

_ESCAPED: Final = re.compile(r"\\([()\[\]{}])")
_OPENING: Final = re.compile(r"(?<!\\)[(\[{]")
_CLOSING: Final = re.compile(r"(?<!\\)[)\]}]")
# At most two digits before the point: `(reverse:1999)` has no weight.
_NUMBER: Final = r":\s{0,2}[-+]?(?:\d{1,2}(?:\.\d{0,4})?|\.\d{1,4})\s{0,2}"
_WEIGHT: Final = re.compile(_NUMBER + "$")
_WEIGHTED: Final = re.compile(f"({_NUMBER}[)\\]}}])\\s")
_LONGEST_WEIGHT: Final = 16
_NETWORK: Final = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
_BREAK: Final = re.compile(r"(?:(?<=[\s,])|^)BREAK(?=[\s,]|$)")
_MAX_BRACKETS: Final = 4
"""Brackets on one side that may belong to a tag; those further out never do."""


def typed_pieces(text: str, known: Collection[str], notes: list[str]) -> Iterator[str]:
    """The pieces of `text` in order: each stands for one tag, or for several that are separated by spaces.

    In a text with a comma, commas and line breaks separate pieces; in any other, white space outside of brackets does.
    ``BREAK`` and ``<lora:…>`` are left out, and `notes` says so.
    """

    def drop(found: re.Match[str]) -> str:
        if found.group() in known:
            return found.group()
        notes.append(f"{found.group()}: left out")
        return TAG_SEPARATOR

    text = _NETWORK.sub(drop, text)
    parts = [text] if "BREAK" in known else _BREAK.split(text)
    if len(parts) > 1:
        notes.append("BREAK: left out")
    for part in parts:
        yield from _pieces(part, known)


def grouped(words: Iterable[str], known: Collection[str]) -> list[str]:
    """`words`, with the words of one pair of brackets joined into one; a bracket that is never closed joins none."""
    found: list[str] = []
    open_words: list[str] = []
    depth = 0
    for word in words:
        if not open_words and (word in known or not _OPENING.match(word)):
            found.append(word)
            continue
        open_words.append(word)
        depth += len(_OPENING.findall(word)) - len(_CLOSING.findall(word))
        if depth <= 0:
            found.append(TAG_SEPARATOR.join(open_words))
            open_words, depth = [], 0
    return found + open_words


def without_layers(piece: str) -> Iterator[str]:
    """`piece`, then `piece` without brackets and weights at its ends, the fewest removed first."""
    yield piece
    starts = [0]
    while starts[-1] < len(piece) and (piece[starts[-1]] in "([{" or piece[starts[-1]].isspace()):
        starts.append(starts[-1] + 1)
    starts, ends = starts[-1 - _MAX_BRACKETS :], _ends(piece)[-1 - 2 * _MAX_BRACKETS :]
    ranges = sorted(itertools.product(range(len(starts)), range(len(ends))), key=sum)
    rest = dict.fromkeys(piece[starts[i] : ends[j]].strip() for i, j in ranges)
    yield from (text for text in rest if text != piece)


def bare(piece: str) -> str:
    """An unknown `piece` as messages name it: without brackets at its start and without a weight at its end."""
    start, ends = len(piece) - len(piece.lstrip("([{")), _ends(piece)
    # A bracket only at the end belongs to the tag, as in `:)` or `foo (bar)`.
    end = ends[-1] if start or (len(ends) > 1 and piece[ends[-1]] == ":") else len(piece)
    return joined(unescaped(piece[start:end])) or joined(unescaped(piece))


def _ends(piece: str) -> list[int]:
    """Where `piece` may end: at its end, before a closing bracket, before the weight there, and so on inwards."""
    ends = [len(piece)]
    while (end := ends[-1]) > 0 and piece[end - 1] in ")]}" and piece[end - 2 : end - 1] != "\\":
        ends.append(end - 1)
        weight = _WEIGHT.search(piece[max(0, end - 1 - _LONGEST_WEIGHT) : end - 1])
        if weight:
            ends.append(end - 1 - len(weight.group()))
    return ends


def joined(piece: str) -> str:
    """`piece` with underscores for white space."""
    return "_".join(piece.split())


def unescaped(piece: str) -> str:
    r"""`piece` with ``(`` for ``\(``, and so on."""
    return _ESCAPED.sub(r"\1", piece)


def _pieces(text: str, known: Collection[str]) -> Iterator[str]:
    words = [word for word in text.split(TAG_SEPARATOR) if word]
    if "," not in text or all(word in known for word in words):
        # Other white space occurs inside tags, but people also separate tags with it.
        yield from grouped((part for word in words for part in ([word] if word in known else word.split())), known)
        return
    # A tag with a comma is recognised only between spaces and spelled as in the export.
    pending: list[str] = []
    for word in words:
        if "," in word and word in known:
            yield from _split_at_commas(TAG_SEPARATOR.join(pending))
            pending = []
            yield word
        else:
            pending.append(word)
    yield from _split_at_commas(TAG_SEPARATOR.join(pending))


def _split_at_commas(text: str) -> Iterator[str]:
    """The texts between commas and line breaks; a weight with its bracket ends a text too."""
    return (stripped for piece in re.split(r"[,\n]", _WEIGHTED.sub(r"\1,", text)) if (stripped := piece.strip()))
