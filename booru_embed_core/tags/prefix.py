"""The beginning of a tag, as somebody is typing it: read by the rules of captions, so that completions match it.

(cat         →  cat                        1.2::Cat Ea  →  cat_ea
char:haku    →  haku, characters only      -so          →  so, to be excluded
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.normalize import NARROW, PREFIXES, joined, unescaped

_SIGN: Final = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d{1,2}(?:\.\d*)?|\.\d+))::|(?P<minus>-)|\d+(?:-\d+)?\$\$|[(\[{<\"'`~#])"
)
"""What prompts put before a tag: an opening bracket or quote, the number of NovelAI or of variants, a minus."""
_SEPARATOR: Final = re.compile(r"[,;|\n\r\t]")
_MAX_SIGNS: Final = 6
"""Signs that may belong to a tag; those further out never do."""


class TypedPrefix(NamedTuple):
    """The beginning of a tag that somebody typed."""

    text: str
    """In lower case, with underscores for spaces; empty if nothing of the tag is typed yet."""
    category: Category | None
    """The category that is named before it (``char:haku``); None allows all."""
    is_excluded: bool
    """Whether a minus or a negative weight stands before it: the tag is to be excluded."""


def read_prefix(text: str, is_tag_prefix: Callable[[str], bool]) -> TypedPrefix:
    """How the typed `text` begins a tag: its letters without what prompts put before a tag.

    As few signs as possible are removed until a tag begins with the rest, so `>:` and `(o)` stay themselves. If no tag
    does, all are. A text with separators is read from the last one on.

    Args:
        text: what is typed so far of one tag.
        is_tag_prefix: whether a tag or an alias begins with these letters, which are in lower case with underscores.
    """
    text = text.translate(NARROW)
    last = _SEPARATOR.split(text)[-1]
    innermost = TypedPrefix("", None, is_excluded=False)
    for typed in dict.fromkeys((text, last)):
        for rest, is_excluded in _without_signs(typed):
            for spelled, category in _by_category(_spelled(rest)):
                for prefix in _variants(spelled):
                    if is_tag_prefix(prefix):
                        return TypedPrefix(prefix, category, is_excluded)
                innermost = TypedPrefix(spelled.rstrip("_"), category, is_excluded)
    if last == text and text.lstrip().startswith("[") and ":" in text:  # prompt editing, `[hat:cat`
        return read_prefix(text.rpartition(":")[2], is_tag_prefix)
    return innermost


def _without_signs(text: str) -> Iterator[tuple[str, bool]]:
    """`text` without its first signs, the fewest removed first, and whether they exclude it."""
    starts = [(0, False)]
    while sign := _SIGN.match(text, starts[-1][0]):
        is_negative = sign["minus"] is not None or (sign["number"] or "").startswith("-")
        starts.append((sign.end(), starts[-1][1] or is_negative))
    for start, is_excluded in starts[-1 - _MAX_SIGNS :]:
        yield text[start:], is_excluded


def _variants(spelled: str) -> list[str]:
    """`spelled`, without a space at its end, and with its hyphens and underscores exchanged; none that is empty."""
    found = (spelled, spelled.rstrip("_"), re.sub(r"(?<=\w)-", "_", spelled), re.sub(r"(?<=\w)_(?=.)", "-", spelled))
    return [variant for variant in dict.fromkeys(found) if variant]


def _by_category(text: str) -> Iterator[tuple[str, Category | None]]:
    """`text` as it is, then without the category that stands before a colon."""
    yield text, None
    prefix, colon, tag = text.partition(":")
    if colon and prefix in PREFIXES:
        yield tag.lstrip("_"), CATEGORIES[PREFIXES[prefix]]


def _spelled(text: str) -> str:
    """`text` in lower case, unescaped, with underscores for spaces, also for one at its end."""
    stripped = text.lstrip()
    end = "_" if stripped and stripped[-1].isspace() else ""
    return unescaped(joined(stripped).casefold() + end)
