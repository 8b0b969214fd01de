"""Scores of one image as taggers' tools write them: texts, lists and objects of JSON, cells of CSV."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from booru_embed_core.embedder.caption_files import CaptionFileError
from booru_embed_core.errors import shown
from booru_embed_core.schema import Category

RATING: Final = "rating"
"""The kind of a tagger's ratings, beside the categories of tags."""
KINDS: Final[Mapping[str, str]] = {
    "0": Category.GENERAL,
    "1": Category.ARTIST,
    "3": Category.COPYRIGHT,
    "4": Category.CHARACTER,
    "5": Category.META,
    "9": RATING,
}
"""What the numbers in the column ``category`` of ``selected_tags.csv`` mean."""
_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("rating", "ratings"), RATING),
    **dict.fromkeys(("general", "general_tags", "features"), Category.GENERAL),
    **dict.fromkeys(("character", "characters", "character_tags", "chars"), Category.CHARACTER),
    **dict.fromkeys(("copyright", "copyrights", "series", "ip", "ips"), Category.COPYRIGHT),
    **dict.fromkeys(("artist", "artists"), Category.ARTIST),
    "meta": Category.META,
}
GROUPS: Final[Mapping[str, str | None]] = {
    **_WORDS,
    **dict.fromkeys(("tags", "tag", "scores", "caption", "captions", "predictions", "confidences")),
}
"""Keys and columns that hold scores, with their kind; None where it is not told."""
NAMES: Final = ("tag", "name", "label")
"""Keys and columns with the name of one tag."""
SCORES: Final = ("score", "confidence", "probability", "prob", "value", "weight")
"""Those with its score."""
CATEGORIES: Final = ("category", "type", "kind")
"""Those with its category."""
_WEIGHTED: Final = re.compile(r"\((?P<name>.+):(?P<score>\d*\.?\d+(?:e-?\d+)?)\)", re.DOTALL)
_SEPARATORS: Final = re.compile(r"[,\n]")


class TagScore(NamedTuple):
    """A tag with its score.

    Attributes:
        name: as the tagger spells it.
        score: 0 to 1; 1 where only tags above a threshold are listed.
        kind: a category, or `RATING`; None if the file does not tell.
    """

    name: str
    score: float
    kind: str | None = None


def kind_of(value: Any, place: str) -> str | None:
    """The kind that a category's number or name stands for; None for an empty one.

    Raises:
        CaptionFileError: it is neither.
    """
    text = str(value).strip().lower()
    if text in ("", "none"):
        return None
    found = KINDS.get(text, _WORDS.get(text))
    if found is None:
        names = ", ".join(f"{number} ({kind})" for number, kind in KINDS.items())
        raise CaptionFileError(f"{place}: the category is {shown(value)}; write one of {names}")
    return found


def score_of(value: Any, name: str, place: str) -> float:
    """The score of the tag `name`.

    Raises:
        CaptionFileError: it is not a number from 0 to 1.
    """
    try:
        number = float("nan") if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number <= 1:
        raise CaptionFileError(
            f"{place}: tag {shown(name)} has the score {shown(value)}; give the tagger's scores, 0 to 1, neither "
            "logits nor percent"
        )
    return number


def scores_of(value: Any, place: str, kind: str | None = None) -> list[TagScore]:
    """The scores in a value of JSON.

    Args:
        value: a caption as text; an object of tags and scores, or of groups such as ``rating`` and ``general``; a list
            of tags, of objects with a tag and its score, of pairs, or of the objects [rating, tags] or [rating,
            general, character].
        place: names it in messages.
        kind: of all tags in it, if a key told that.

    Raises:
        CaptionFileError: it is nothing of that.
    """
    if isinstance(value, str):
        return _of_text(value, kind)
    if isinstance(value, dict):
        return _of_object(value, place, kind)
    if isinstance(value, list | tuple):
        return _of_list(list(value), place, kind)
    raise CaptionFileError(
        f"{place}: {shown(value)} holds no tags; give an object of tags and scores, a list of tags, or a text"
    )


def holds_scores(value: Any) -> bool:
    """Whether `value` is of one image, rather than an object or a list of images."""
    if isinstance(value, list):
        objects = [one for one in value if isinstance(one, dict)]
        are_groups = len(value) in (2, 3) and len(objects) == len(value) and all(map(_are_numbers, objects))
        return are_groups or (bool(objects) and all(_key(one, NAMES) and _key(one, SCORES) for one in objects))
    if not isinstance(value, dict) or not value:
        return False
    return _are_numbers(value) or any(str(key).lower() in GROUPS for key in value)


def cell_scores(cell: str, place: str, kind: str | None) -> list[TagScore]:
    """The scores in a cell of CSV: a text, or an object or a list as JSON or Python write it.

    Raises:
        CaptionFileError: as in `scores_of`.
    """
    text = cell.strip()
    if text[:1] in ("{", "[") and text[-1:] in ("}", "]"):
        for parse in (json.loads, ast.literal_eval):
            try:
                return scores_of(parse(text), place, kind)
            except (SyntaxError, MemoryError, RecursionError):
                continue
            except ValueError as error:
                if isinstance(error, CaptionFileError):
                    raise
    return _of_text(cell, kind)


def _of_text(text: str, kind: str | None) -> list[TagScore]:
    """The tags of a caption between commas; ``(hat:0.8)`` has a score."""
    found = []
    for part in filter(None, map(str.strip, _SEPARATORS.split(text))):
        weighted = _WEIGHTED.fullmatch(part)
        score = float(weighted["score"]) if weighted else 1.0
        is_score = weighted is not None and score <= 1
        found.append(TagScore(weighted["name"] if weighted and is_score else part, score if is_score else 1.0, kind))
    return found


def _of_object(value: dict[str, Any], place: str, kind: str | None) -> list[TagScore]:
    if _are_numbers(value):
        return [TagScore(name, score_of(score, name, place), kind) for name, score in value.items()]
    name = _key(value, NAMES)
    if name and _key(value, SCORES):
        return [_of_record(value, place, kind)]
    groups = {key: inner for key, inner in value.items() if str(key).lower() in GROUPS and inner is not None}
    if not groups:
        raise CaptionFileError(
            f"{place}: has no tags in {shown(list(value))}; give numbers to tags, or groups such as "
            "rating, general and character"
        )
    found: list[TagScore] = []
    has_tags = "tags" in value
    for key, inner in groups.items():
        is_prose = has_tags and key in ("caption", "captions")  # a sentence beside the tags
        is_single = isinstance(inner, int | float) and not isinstance(inner, bool)
        if not is_prose and not is_single:
            found += scores_of(inner, f"{place}, {key}", GROUPS[key.lower()] or kind)
    return found


def _of_list(value: list[Any], place: str, kind: str | None) -> list[TagScore]:
    if len(value) in (2, 3) and all(isinstance(one, dict) and _are_numbers(one) for one in value):
        kinds = (RATING, kind) if len(value) == 2 else (RATING, Category.GENERAL, Category.CHARACTER)
        return [score for one, own in zip(value, kinds, strict=True) for score in _of_object(one, place, own)]
    found: list[TagScore] = []
    for one in value:
        if isinstance(one, str):
            found += _of_text(one, kind)
        elif isinstance(one, dict) and _key(one, NAMES) and _key(one, SCORES):
            found.append(_of_record(one, place, kind))
        elif isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[0], str):
            found.append(TagScore(one[0], score_of(one[1], one[0], place), kind))
        else:
            raise CaptionFileError(f"{place}: {shown(one)} is no tag; give its name, or an object with tag and score")
    return found


def _of_record(value: Mapping[str, Any], place: str, kind: str | None) -> TagScore:
    name, score, category = (value.get(_key(value, names)) for names in (NAMES, SCORES, CATEGORIES))
    if not isinstance(name, str):
        raise CaptionFileError(f"{place}: {shown(name)} is no tag; give its name as text")
    return TagScore(name, score_of(score, name, place), kind_of(category, place) or kind)


def _key(value: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of `names` that `value` has as a key; empty if none."""
    return next((name for name in names if name in value), "")


def _are_numbers(value: Mapping[str, Any]) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in value.values())
