"""What a prompt holds besides tags: networks, wildcards, settings. It is taken out, and a note says so.

1girl <lora:style:1>           →  1girl        embedding:easynegative, hat  →  hat
1girl⏎Negative prompt: hat …   →  1girl
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from booru_embed_core.errors import shortened
from booru_embed_core.schema import TAG_SEPARATOR
from booru_embed_core.tags.normalize import NARROW, NUMBER

_INFOTEXT: Final = (
    (re.compile(r"(?:^|(?<=[\s,]))Steps: \d+(?=,|\s|$)", re.IGNORECASE), "settings"),
    (re.compile(r"(?:^|(?<=\s))(?:negative[ _]prompt|undesired content):", re.IGNORECASE), "the negative prompt"),
)
"""Where the block of text that AUTOMATIC1111's web UI or NovelAI writes leaves the prompt, from its end backwards."""
_LABEL: Final = re.compile(r"^\s*(?:positive )?prompt:\s*", re.IGNORECASE)
_BULLET: Final = re.compile(r"^[ \t]*(?:[-*\u2022]|\d{1,3}[.)])[ \t]+", re.MULTILINE)
_NO_TAG: Final = re.compile(
    r"<[a-z_]{2,20}:[^<>\n]*>"  # <lora:name:0.8>
    r"|(?<![^\s,(\[{|:])__[\w/.*-]+?__(?![^\s,)\]}|:])"  # __wildcard__
    rf"|(?<![^\s,(\[{{|])embedding:[^\s,()\[\]{{}}|:<>]+(?::{NUMBER})?"
    r"|\)\.(?:and|blend)\([-\d., ]*\)",  # InvokeAI's conjunction and blend
    re.IGNORECASE,
)
_JOINER: Final = re.compile(r"(?<=\{)(\d*-?\d*\$\$)[^|{}$\n]{1,20}\$\$")
"""How many variants are drawn, and what is written between them: ``{2$$ and $$hat|bow}``."""
_COMMAS: Final = ",;|\n\u060c\u061b\u3000\u3001\u3002\uff0c\uff1b\uff5c\uff61\uff64"
_PARTS: Final = re.compile(f"[{_COMMAS}]|[^{_COMMAS}]+")
_WORD: Final = re.compile(f"[^{TAG_SEPARATOR}]+")
_FULL_WIDTH: Final = re.compile("[\uff01-\uff5e](?<![\uff0c\uff1b\uff5c])")


def without_settings(text: str, known: Collection[str], notes: list[str]) -> str:
    """`text` without what names no tag, with line feeds as line breaks and ASCII signs for full-width ones.

    Words of `known` are tags and stay unchanged. `notes` gets a line for everything that was taken out.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for pattern, name in _INFOTEXT:
        if found := pattern.search(text):
            notes.insert(0, f"{shortened(text[found.start() :])}: {name}, left out")
            text = text[: found.start()]
    if (found := _LABEL.match(text)) and found.group().strip() not in known:
        notes.append(f"{found.group().strip()} left out")
        text = text[found.end() :]
    if not text.isascii():
        text = _narrow(text, known, notes)

    def drop(match: re.Match[str]) -> str:
        if match.group() in known:
            return match.group()
        notes.append(f"{shortened(match.group())}: left out")
        return TAG_SEPARATOR

    text = _JOINER.sub(r"\1", _NO_TAG.sub(drop, text))
    return _BULLET.sub(lambda match: match.group() if match.group().strip() in known else "", text).strip()


def _narrow(text: str, known: Collection[str], notes: list[str]) -> str:
    """`text` with ASCII for full-width signs, except in words that are tags."""

    def narrow(match: re.Match[str]) -> str:
        return match.group() if match.group() in known else match.group().translate(NARROW)

    def narrow_parts(match: re.Match[str]) -> str:
        word = match.group()
        return word if word in known or word.strip(",;") in known else _PARTS.sub(narrow, word)

    narrowed = _WORD.sub(narrow_parts, text)
    if any(_FULL_WIDTH.match(old) and old != new for old, new in zip(text, narrowed, strict=True)):
        notes.append("full-width signs: read as ASCII")
    return narrowed
