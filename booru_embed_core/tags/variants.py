"""Alternatives that share a word: it is written into each, so that each is a tag.

{blue|red} eyes           →  {blue eyes|red eyes}
long [black:white:0.5] dress, twin{tails|_braids}   →  words that make no tag stay where they are
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

_GROUP: Final = re.compile(
    r"\{(?P<braced>[^{}\[\]\n|]*+\|[^{}\[\]\n]*+)\}"
    r"|\[(?P<drawn>[^{}\[\]\n|]*+\|[^{}\[\]\n]*+)\]"
    r"|\[(?P<edited>[^{}\[\]\n:|]*:[^{}\[\]\n:|]*)(?P<when>:\s*(?:\d+\.?\d*|\.\d+)\s*)\]"
)
_BEFORE: Final = re.compile(r"[^,;|\n()\[\]{}:]*\Z")
_AFTER: Final = re.compile(r"[^,;|\n()\[\]{}:]*")
_WORD: Final = re.compile(r"\S+")
_WEIGHED: Final = re.compile(
    r"(?P<first>\s*(?:[\d.]+::|[\d-]+\$\$)?\s*)(?P<name>.*?)(?P<last>(?::[\d.]+)?\s*)", re.DOTALL
)
_MAX_WORDS: Final = 3
_LONGEST_SIDE: Final = 80
_MAX_ALTERNATIVES: Final = 32

IsName = Callable[[str], bool]


def completed(text: str, is_name: IsName, notes: list[str]) -> str:
    """`text` with the words around alternatives written into each, where more of them are tags with the words.

    Args:
        text: a caption.
        is_name: whether a text names a tag.
        notes: gets a line for each group that is read so.
    """
    found, done = [], 0
    for group in _GROUP.finditer(text):
        before = _BEFORE.search(text[max(done, group.start() - _LONGEST_SIDE) : group.start()])
        after = _AFTER.match(text[group.end() : group.end() + _LONGEST_SIDE])
        assert before is not None
        assert after is not None
        if not before.group().strip() and not after.group().strip():
            continue
        read = _read(group, before.group(), after.group(), is_name)
        if read is None:
            continue
        start, end = group.start() - len(read[0]), group.end() + len(read[1])
        notes.append(f"{' '.join(text[start:end].split())}: read as {read[2]}")
        found += [text[done:start], read[2]]
        done = end
    return "".join([*found, text[done:]])


def _read(group: re.Match[str], before: str, after: str, is_name: IsName) -> tuple[str, str, str] | None:
    """The words before and after `group` that belong into it, and the group with them; None if none do."""
    separator = "|" if group["edited"] is None else ":"
    inner = group[group.lastgroup or 0] if group["edited"] is None else group["edited"]
    parts = [_WEIGHED.fullmatch(part) for part in inner.split(separator)]
    if len(parts) > _MAX_ALTERNATIVES or is_name(group.group()):
        return None
    names = [part["name"] for part in parts if part]
    best, most = None, sum(map(is_name, names))
    for first in _ends(before):
        for last in _starts(after):
            if not first.strip() and not last.strip():
                continue
            num = sum(is_name(first + name + last) for name in names)
            is_odd = best is None and num == most > 0 and not all(map(is_name, (first + " " + last).split()))
            if num > most or is_odd:
                best, most = (first, last), num
    if best is None:
        return None
    first, last = best
    whole = separator.join(
        part["first"] + " ".join(f"{first}{part['name']}{last}".split()) + part["last"] for part in parts if part
    )
    opened, closed = group.group()[0], group.group()[-1]
    return first.lstrip(), last.rstrip(), f"{opened}{whole}{group['when'] or ''}{closed}"


def _starts(text: str) -> Iterator[str]:
    """Beginnings of `text` that end with a word, of up to three; without words only where a space follows."""
    if not text or text[0].isspace():
        yield ""
    for word in [*_WORD.finditer(text)][:_MAX_WORDS]:
        yield text[: word.end()]


def _ends(text: str) -> Iterator[str]:
    """Ends of `text` that begin with a word, of up to three; without words only where a space stands before."""
    if not text or text[-1].isspace():
        yield ""
    for word in [*_WORD.finditer(text)][: -_MAX_WORDS - 1 : -1]:
        yield text[word.start() :]
