"""Prose of a Markdown page: its lines and its sentences, without code, tables, comments and the targets of links."""

from __future__ import annotations

import re
from typing import NamedTuple

_FENCE = re.compile(r"\s*(```|~~~|\$\$)")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\([^)\s]*\)")
_CODE = re.compile(r"``[^`]+``|`[^`]+`")
_ITEM = re.compile(r"\s*(?:[-*+]|\d+\.)\s+")
_TABLE_ROW = re.compile(r"\s*\|")
_HEADING = re.compile(r"#+\s")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Fig|Sec)|\b[A-Z])\.$")
_END = re.compile(r"""(?<=[.!?])["')\]*_]*\s+(?=["'(\[*_]*[\w`])""")


class Line(NamedTuple):
    """A line of prose and its number from 1."""

    number: int
    text: str


class Sentence(NamedTuple):
    """A sentence and the number of the line at which its paragraph begins."""

    line: int
    text: str

    @property
    def num_words(self) -> int:
        """Runs of other than white space that hold a letter or a digit; a code span is one of them."""
        return sum(bool(re.search(r"\w", word)) for word in self.text.split())


def prose_lines(page: str) -> list[Line]:
    """Lines outside of fences, formulas, tables and comments; blank ones included, for they end a paragraph."""
    visible = _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), page)
    lines = []
    fence: str | None = None
    for number, text in enumerate(visible.splitlines(), 1):
        mark = _FENCE.match(text)
        if fence is None and mark:
            if text.strip() == mark[1] or mark[1] != "$$":  # a formula may open and close on one line
                fence = mark[1]
        elif fence is not None:
            if mark and mark[1] == fence:
                fence = None
        elif not _TABLE_ROW.match(text):
            lines.append(Line(number, text.rstrip()))
            continue
        lines.append(Line(number, ""))
    return lines


def sentences(page: str) -> list[Sentence]:
    """The sentences of the paragraphs, list items and headings of `page`, in its order."""
    found = []
    for number, paragraph in _paragraphs(page):
        # Code is one word with a capital: it may begin a sentence, and no point within it ends one.
        text = _LINK.sub(r"\1", _CODE.sub("Code", paragraph))
        start = 0
        for end in _END.finditer(text):
            if _ABBREVIATION.search(text[start : end.start()]) or not _may_begin(text[end.end() :]):
                continue
            found.append(Sentence(number, text[start : end.start()].strip()))
            start = end.end()
        found.append(Sentence(number, text[start:].strip()))
    return found


def anchors(page: str) -> set[str]:
    """The anchors of the headings of `page`, as GitHub and mkdocs make them."""
    found = set()
    for _, text in prose_lines(page):
        if _HEADING.match(text):
            plain = _LINK.sub(r"\1", text.lstrip("# ")).replace("`", "").lower()
            found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


def _may_begin(text: str) -> bool:
    first = text.lstrip("\"'([*_")[:1]
    return not first.islower()


def _paragraphs(page: str) -> list[Line]:
    paragraphs: list[Line] = []
    is_open = False
    for number, text in prose_lines(page):
        if not text.strip():
            is_open = False
            continue
        item = _ITEM.match(text)
        if is_open and not item and not _HEADING.match(text):
            begun = paragraphs[-1]
            paragraphs[-1] = begun._replace(text=f"{begun.text} {text.strip()}")
        else:
            paragraphs.append(Line(number, text[item.end() :] if item else text.lstrip("# ")))
        is_open = not _HEADING.match(text)
    return paragraphs
