r"""Tags as a prompt for another program, in its dialect: ``tracer \(overwatch\)`` for ``tracer_(overwatch)``.

The caption reader reads every prompt of this module back as the same tags and weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

Dialect: TypeAlias = Literal["a1111", "comfyui", "novelai", "danbooru"]
"""Programs whose prompts `as_prompt` writes; ``danbooru`` is the spelling of the site and of exports."""
DIALECTS: Final = get_args(Dialect)


@dataclass(frozen=True, kw_only=True)
class _Dialect:
    """How a program writes a list of tags.

    Attributes:
        separator: between two tags.
        has_spaces: whether a space stands for an underscore.
        escaped: signs that a backslash escapes.
        weighted: a weighted tag, for `str.format`; empty where the program knows no weights.
    """

    separator: str
    has_spaces: bool
    escaped: str = ""
    weighted: str = ""


_DIALECTS: Final = {
    "a1111": _Dialect(separator=", ", has_spaces=True, escaped="\\()[]", weighted="({tag}:{weight})"),
    "comfyui": _Dialect(separator=", ", has_spaces=True, escaped="(){}", weighted="({tag}:{weight})"),
    "novelai": _Dialect(separator=", ", has_spaces=True, weighted="{weight}::{tag}::"),
    "danbooru": _Dialect(separator=" ", has_spaces=False),
}

_HAS_WORD: Final = re.compile(r"[^\W_]{2}")
_ODD_UNDERSCORES: Final = re.compile(r"^_|__|_$")


def as_prompt(tags: Iterable[str], dialect: str = "a1111", weights: Sequence[float] = ()) -> str:
    """`tags` as one text.

    Emoticons such as ``>_<`` keep their underscores, since no program knows them with spaces. A tag with a comma keeps
    its spelling between two spaces.

    Args:
        tags: in the spelling of the vocabulary.
        dialect: one of `DIALECTS`.
        weights: of each tag; empty for 1. ``danbooru`` has no weights and leaves them out.

    Raises:
        ValueError: no such dialect.
    """
    rules, names = _rules(dialect), list(tags)
    written = [_written(tag, weight, rules) for tag, weight in zip(names, weights or [1.0] * len(names), strict=True)]
    text = rules.separator.join(written).rstrip()
    # The words of a tag that stands alone could be read as tags of their own; a comma makes it one piece.
    return text + "," if len(names) == 1 and " " in text and "," not in text else text


def has_weights(dialect: str) -> bool:
    """Whether prompts in `dialect` can give a tag a weight.

    Raises:
        ValueError: no such dialect.
    """
    return bool(_rules(dialect).weighted)


def _rules(dialect: str) -> _Dialect:
    if dialect not in _DIALECTS:
        raise ValueError(f"dialect {dialect!r} is not one of {', '.join(DIALECTS)}")
    return _DIALECTS[dialect]


def _written(tag: str, weight: float, rules: _Dialect) -> str:
    if "," in tag and rules.has_spaces:
        return f"{tag} "
    text = "".join(f"\\{sign}" if sign in rules.escaped else sign for sign in tag)
    if rules.has_spaces and _HAS_WORD.search(tag) and not _ODD_UNDERSCORES.search(tag):
        text = text.replace("_", " ")
    return rules.weighted.format(tag=text, weight=f"{weight:g}") if weight != 1 and rules.weighted else text
