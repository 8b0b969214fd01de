"""Cuts a query into words, signs and parentheses, in time linear in its length; ``query`` gives them a meaning.

    (cat_ears ~ dog_ears) -hat, rating:g,s
    →  OPEN cat_ears TILDE dog_ears CLOSE NOT hat SEPARATOR rating:g,s

A tag of the vocabulary is one word, whatever signs it consists of: ``:)``, ``-_-``, ``(o)_(o)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, NamedTuple

from booru_embed_core.errors import shown
from booru_embed_core.search.metatags import ANSWERED, NAME, IsTag, is_metatag
from booru_embed_core.tags.patterns import WILDCARD

MAX_DEPTH: Final = 50
"""Parentheses within each other, and signs before one word."""
_LONGEST_NAME: Final = 256
"""No tag is longer than this; longer words are not looked up."""
_MAX_SIGNS: Final = 4
"""Signs at the beginning, or parentheses at the end, that may belong to a tag; those further out never do."""
_UNFINISHED: Final = frozenset(f"{name}:" for name in ANSWERED)
_RUN: Final = 3
"""Words on each side of ``and`` and ``or`` that may form one tag with it: ``black and white``."""
# White space other than U+0020 occurs inside tags, so it separates only where the whole is no tag.
_CHUNK: Final = re.compile(r"[^ ]+")
_PART: Final = re.compile(r"\S+|\n")
# A semicolon may begin an emoticon: `;)`.
_SEPARATOR: Final = re.compile(r",|(?<=[\w)\]}]);|\|\|\|")
_SEPARATORS: Final = re.compile(f"(?:{_SEPARATOR.pattern})+")
_VALUE: Final = re.compile(r"[^\s;]*")
_PREFIXED: Final = re.compile(r"[-~(]*")
_NUMBERED: Final = re.compile(r"-\d*\.?\d*::")
"""A negative weight, as NovelAI writes it: ``-1::hat::``."""
_OPENING: Final = re.compile(r"(?<!\\)\(")
_CLOSING: Final = re.compile(r"(?<!\\)\)")
_WEIGHT: Final = re.compile(r"\)(:?[-+]?[\d.]+|[-+]+)$")
_LONGEST_WEIGHT: Final = 16


class Kind(Enum):
    """The kinds of `Token`."""

    WORD = auto()
    SEPARATOR = auto()
    OPEN = auto()
    CLOSE = auto()
    TEXT = auto()
    """A parenthesis that groups nothing: it belongs to a caption, as in ``(cat ears:1.2)``."""
    NOT = auto()
    OPTIONAL = auto()
    """``~`` before a word."""
    TILDE = auto()
    """``~`` between spaces."""
    OR = auto()
    AND = auto()
    PLUS = auto()
    MINUS = auto()
    END = auto()


class Token(NamedTuple):
    """A part of a query: ``query[start:end]``."""

    kind: Kind
    start: int
    end: int


_ALONE: Final = {
    "-": Kind.MINUS,
    "+": Kind.PLUS,
    "~": Kind.TILDE,
    "or": Kind.OR,
    "and": Kind.AND,
}
_PREFIXES: Final = {"-": Kind.NOT, "~": Kind.OPTIONAL, "(": Kind.OPEN}
_OPERATORS: Final = frozenset({Kind.NOT, Kind.OPTIONAL, Kind.TILDE, Kind.OR, Kind.AND, Kind.PLUS, Kind.MINUS})

_AFTER_GROUPS: Final = frozenset({Kind.TILDE, Kind.OR, Kind.AND})
_BEFORE_GROUPS: Final = _AFTER_GROUPS | {Kind.NOT, Kind.OPTIONAL}


class Words(NamedTuple):
    """The tokens of a query, `Kind.END` last, and whether any of them is more than a caption has."""

    tokens: list[Token]
    has_grammar: bool


def read_words(text: str, is_tag: IsTag) -> Words:
    """The tokens of `text`.

    Args:
        text: a query.
        is_tag: whether a word is the name of a tag.

    Raises:
        ValueError: parentheses or signs are nested too deeply.
    """
    tokens = [token for chunk in _CHUNK.finditer(text) for token in _of_chunk(text, *chunk.span(), is_tag)]
    _join_names(text, tokens, is_tag)
    _join_values(text, tokens)
    operators = [token.kind in _OPERATORS or _is_filter(text, token, is_tag) for token in tokens]
    if any(operators):
        tokens = _grouped(text, tokens, operators, is_tag)
    return Words([*tokens, Token(Kind.END, len(text), len(text))], any(operators))


def is_wildcard(word: str, is_tag: IsTag) -> bool:
    """Whether `word` is a pattern such as ``*_ears``."""
    return WILDCARD in word and not is_tag(word)


def _is_filter(text: str, token: Token, is_tag: IsTag) -> bool:
    word = text[token.start : token.end]
    return token.kind is Kind.WORD and (is_wildcard(word, is_tag) or is_metatag(word, is_tag))


def _of_chunk(text: str, start: int, end: int, is_tag: IsTag) -> Iterator[Token]:
    """The tokens of what stands between two U+0020."""
    if _is_known(text, start, end, is_tag):
        yield Token(Kind.WORD, start, end)
        return
    for part in _PART.finditer(text, start, end):
        if part.group() == "\n":
            yield Token(Kind.SEPARATOR, *part.span())
        else:
            yield from _of_part(text, *part.span(), is_tag)


def _of_part(text: str, start: int, end: int, is_tag: IsTag) -> Iterator[Token]:
    """The tokens of what stands between white space: words between separators, and metatags, which may hold commas."""
    while start < end:
        stop = end
        separator = _SEPARATOR.search(text, start, end)
        if separator:
            prefixes = _PREFIXED.match(text, start, end)
            first = prefixes.end() if prefixes else start
            name = NAME.match(text, first, end)
            last = start + len(text[start:end].rstrip(",;"))
            # A tag may hold a comma, and begin with signs: `-a,b`.
            if any(_known_end(text, begin, last, is_tag) for begin in range(max(start, first - _MAX_SIGNS), first + 1)):
                stop = last
            elif name and name[1].casefold() in ANSWERED:  # its value may be a list
                stop = _ended(text, first, end)
            else:
                stop = separator.start()
        if stop > start:
            yield from _of_word(text, start, stop, is_tag)
        separator = _SEPARATORS.match(text, stop, end)
        if separator:
            yield Token(Kind.SEPARATOR, *separator.span())
            stop = separator.end()
        start = max(stop, start + 1)


def _ended(text: str, start: int, end: int) -> int:
    """The end of the metatag at `start`, before commas and before a semicolon."""
    found = _VALUE.match(text, start, end)
    return start + len(found.group().rstrip(",")) if found else end


def _of_word(text: str, start: int, end: int, is_tag: IsTag) -> Iterator[Token]:
    """The signs before a word, the word, and the parentheses that it closes."""
    alone = _ALONE.get(text[start:end].casefold())
    if alone is not None:
        yield Token(alone, start, end)
        return
    first, core = start, end
    while (core := _known_end(text, start, end, is_tag)) == 0 and start < end:
        kind = _PREFIXES.get(text[start])
        if kind is None or (kind is not Kind.OPEN and start + 1 == end) or _NUMBERED.match(text, start, end):
            break
        if start - first >= MAX_DEPTH:
            raise ValueError(f"{shown(text)}: more than {MAX_DEPTH} signs before one word; leave some out")
        yield Token(kind, start, start + 1)
        start += 1
    closing: list[Token] = []
    if core:
        closing = [Token(Kind.CLOSE, index, index + 1) for index in range(core, end)]
    else:
        core, closing = _closed(text, start, end)
    if core > start:
        yield Token(Kind.WORD, start, core)
    yield from closing


def _known_end(text: str, start: int, end: int, is_tag: IsTag) -> int:
    """Where the tag that starts at `start` ends, before closing parentheses, as few as possible; 0 if there is none."""
    for stop in range(end, max(start, end - _MAX_SIGNS - 1), -1):
        if stop < end and text[stop] != ")":
            break
        if _is_known(text, start, stop, is_tag):
            return stop
    return 0


def _closed(text: str, start: int, end: int) -> tuple[int, list[Token]]:
    """Where a word ends, and the parentheses after it that it does not open itself, each with its weight."""
    depth = len(_CLOSING.findall(text, start, end)) - len(_OPENING.findall(text, start, end))
    closing: list[Token] = []
    while depth > 0 and end > start:
        weight = _WEIGHT.search(text, max(start, end - _LONGEST_WEIGHT), end)
        if weight:
            begin = weight.start()
        elif text[end - 1] == ")":
            begin = end - 1
        else:
            break
        if text[begin - 1 : begin] == "\\":
            break
        closing.append(Token(Kind.CLOSE, begin, end))
        end, depth = begin, depth - 1
    return end, closing[::-1]


def _is_known(text: str, start: int, end: int, is_tag: IsTag) -> bool:
    return end - start <= _LONGEST_NAME and is_tag(text[start:end])


def _join_names(text: str, tokens: list[Token], is_tag: IsTag) -> None:
    """Makes each ``and`` and ``or`` within the name of a tag a word, in place."""
    joinable = (Kind.WORD, Kind.OR, Kind.AND)
    for index, token in enumerate(tokens):
        if token.kind not in (Kind.OR, Kind.AND):
            continue
        before = tokens[max(0, index - _RUN) : index]
        after = tokens[index + 1 : index + 1 + _RUN]
        for first in range(len(before) - 1, -1, -1):
            if before[first].kind not in joinable:
                break
            for last in range(1, len(after) + 1):
                if after[last - 1].kind not in joinable:
                    break
                run = [*before[first:], token, *after[:last]]
                name = "_".join(text[one.start : one.end] for one in run)
                if _is_known(name, 0, len(name), is_tag):
                    tokens[index] = token._replace(kind=Kind.WORD)


def _join_values(text: str, tokens: list[Token]) -> None:
    """Joins each name of a metatag that ends with its colon and the word after it, as in ``rating: g``, in place."""
    for index in range(len(tokens) - 2, -1, -1):
        name, value = tokens[index], tokens[index + 1]
        if name.kind is value.kind is Kind.WORD and text[name.start : name.end].casefold() in _UNFINISHED:
            tokens[index : index + 2] = [Token(Kind.WORD, name.start, value.end)]


def _grouped(text: str, tokens: list[Token], operators: list[bool], is_tag: IsTag) -> list[Token]:
    """`tokens`, with parentheses that group nothing as `Kind.TEXT`.

    A pair groups if it holds an operator or a filter, or stands beside one: ``-(a b)``, ``(a b) ~ c``.

    Raises:
        ValueError: a parenthesis without its other half, or too many within each other.
    """
    made, num_operators, is_operator = list(tokens), 0, [False] * len(tokens)
    opened: list[tuple[int, int]] = []
    for index, (token, here) in enumerate(zip(tokens, operators, strict=True)):
        is_operator[index] = here
        num_operators += here
        if token.kind is Kind.OPEN:
            opened.append((index, num_operators))
            if len(opened) > MAX_DEPTH:
                raise ValueError(f"{shown(text)}: more than {MAX_DEPTH} parentheses within each other; leave some out")
        elif token.kind is Kind.CLOSE and opened:
            start, before = opened.pop()
            beside = (start > 0 and tokens[start - 1].kind in _BEFORE_GROUPS) or (
                index + 1 < len(tokens) and tokens[index + 1].kind in _AFTER_GROUPS
            )
            if num_operators == before and not (beside and not _ends_name(text, tokens, start, token.end, is_tag)):
                made[start] = made[start]._replace(kind=Kind.TEXT)
                made[index] = made[index]._replace(kind=Kind.TEXT)
        elif token.kind is Kind.CLOSE:
            previous = made[index - 1] if index else token
            if previous.kind not in (Kind.WORD, Kind.TEXT) or previous.end != token.start:
                raise ValueError(f"{shown(text[token.start :])}: this parenthesis closes nothing; leave it out")
            made[index] = token._replace(kind=Kind.TEXT)
    if opened:
        start = tokens[opened[-1][0]].start
        raise ValueError(f"{shown(text[start:])}: this parenthesis is never closed; write ( a ~ b ) c")
    return made


def _ends_name(text: str, tokens: list[Token], opened: int, end: int, is_tag: IsTag) -> bool:
    """Whether the parenthesis at `opened` begins the end of a name, as in ``miku (fate) ~ hat``."""
    for token in tokens[max(0, opened - _RUN) : opened][::-1]:
        if token.kind is not Kind.WORD:
            return False
        if end - token.start <= _LONGEST_NAME and is_tag("_".join(text[token.start : end].split())):
            return True
    return False
