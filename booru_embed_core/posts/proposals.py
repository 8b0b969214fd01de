"""What settings an export that is refused may need: proposals by its columns and by the first reasons of rejects.

A proposal is a guess where names are alike. It says so in its comment, and a person decides.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.validation import ColumnsError
from booru_embed_core.schema import ALL_TAGS_COLUMN, CATEGORIES, FLAG_COLUMNS, RATINGS, TAG_COLUMNS, tag_column

Values = dict[str, Any]
Comments = dict[tuple[str, ...], str]

_OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "id": ("post_id", "postid", "image_id", "danbooru_id", "gelbooru_id", "e621_id", "pid"),
    "rating": ("ratings", "safety", "rating_name", "age_rating", "nsfw"),
    "score": ("total_score", "score_total", "points", "votes", "up_score"),
    ALL_TAGS_COLUMN: (
        "tags_string",
        "tag_list",
        "all_tags",
        "taglist",
        "caption",
        "captions",
        "text",
        "labels",
        "prompt",
    ),
    **{
        tag_column(one): (
            f"{one}_tags",
            f"tags_{one}",
            f"tag_{one}",
            f"{one}_tag",
            f"{one}s",
            f"tag_list_{one}",
            str(one),
        )
        for one in CATEGORIES
    },
}
_MIN_LIKENESS: Final = 0.84
_TRUE_LIKE: Final = frozenset(("yes", "y", "on", "deleted", "banned", "flagged", "removed", "-1"))
_RATING: Final = re.compile(r"rating (.*) is not one of ")
_FLAG: Final = re.compile(rf"({'|'.join(FLAG_COLUMNS)}) (.*) is neither true nor false")
_CATEGORY: Final = re.compile(r'set \[posts\.category_numbers\] "?([^"]+?)"? = "general"')
_PRESET: Final = re.compile(r"set \[posts\] preset to '([a-z0-9-]+)'")
_NUMBERED_RATINGS: Final = dict(zip("0123", RATINGS, strict=True))
_DEFAULTS: Final[Mapping[str, tuple[str, Any, str]]] = {
    "id": ("missing_id", "row", "ids by file and row"),
    "rating": ("missing_rating", "g", "a guess: the rating of all posts that have none"),
    "score": ("missing_score", 0, "of all posts that have none"),
}


def of_columns(error: ColumnsError, given: Values, conventions: Conventions) -> tuple[Values, Comments]:
    """Values of a source, beside those that are `given`, with which a file with these columns may be read."""
    named = given.get("columns", {})
    canonical = conventions.canonical(error.found)
    free = [name for name, own in zip(error.found, canonical, strict=True) if own == name and own not in _OTHER_NAMES]
    columns: dict[str, str] = {}
    values: Values = {}
    comments: Comments = {}
    missing = [name for name in error.missing if name not in named]
    categories = [name for name in missing if name in TAG_COLUMNS]
    for name in (name for name in missing if name in FLAG_COLUMNS):
        columns[name] = ""
        comments["columns", name] = "there is none"
    for name in (*(name for name in missing if name in _DEFAULTS), *categories):
        if near := _nearest(name, [one for one in free if one not in columns.values()]):
            columns[name] = near
            comments["columns", name] = "a guess by the column's name"
        elif name in _DEFAULTS:
            key, value, comment = _DEFAULTS[name]
            if key not in given:
                values[key] = value
                comments[key,] = f"there is no column {name}: {comment}"
    if categories and not any(name in columns for name in categories) and len(categories) == len(TAG_COLUMNS):
        if near := _nearest(ALL_TAGS_COLUMN, free):
            columns[ALL_TAGS_COLUMN] = near
            comments["columns", ALL_TAGS_COLUMN] = "a guess by the column's name"
    else:
        for name in (name for name in categories if name not in columns):
            columns[name] = ""
            comments["columns", name] = "there is none"
    return ({**values, "columns": columns} if columns else values), comments


def _nearest(name: str, found: Sequence[str]) -> str | None:
    """The one of `found` that is most like `name`; None where none is."""
    plain = {re.sub(r"[\s-]+", "_", one.strip().lower()): one for one in reversed(found)}
    for other in (name, *_OTHER_NAMES[name]):
        if other in plain:
            return plain[other]
    ends = [one for one in found if one.rpartition(".")[2] == name]
    if len(ends) == 1:
        return ends[0]
    close = difflib.get_close_matches(name, plain, n=1, cutoff=_MIN_LIKENESS)
    return plain[close[0]] if close else None


def without_categories(column: str, given: Values) -> tuple[Values, Comments]:
    """Values with which all tags, in one `column`, count as general, since no table tells their categories."""
    if set(given.get("columns", {})) & {*TAG_COLUMNS}:
        return {}, {}
    columns = {name: column if name == TAG_COLUMNS[0] else "" for name in TAG_COLUMNS}
    comment = 'all tags count as general; better: set tag_categories = "tags.csv", a table of tags, and no columns'
    return {"columns": columns}, {("columns", TAG_COLUMNS[0]): comment}


def of_reasons(reasons: Iterable[str], given: Values) -> tuple[Values, Comments]:
    """Values of a source, beside those that are `given`, with which records rejected for `reasons` may be read."""
    values: Values = {}
    comments: Comments = {}
    for reason in dict.fromkeys(reasons):
        for name, (key, value, comment) in _DEFAULTS.items():
            if reason.startswith(f"{name} is missing"):
                values[key] = value
                comments[key,] = comment
        if match := _RATING.match(reason):
            word = word_of(match[1])
            rating, comment = _guessed_rating(word)
            values.setdefault("rating_names", {})[word] = rating
            comments["rating_names", word] = comment
        if (match := _FLAG.match(reason)) and (word := word_of(match[2])).lower() in _TRUE_LIKE:
            values.setdefault("true_values", {}).setdefault(match[1], []).append(word)
            comments["true_values", match[1]] = "a guess: list the values that mean true"
        if reason.startswith("a comma inside "):
            values["tag_separator"] = " "
            comments["tag_separator",] = "commas are part of tags; ',' if they separate tags"
    known = {key for key in values if key in given and not isinstance(values[key], dict)}
    return {key: value for key, value in values.items() if key not in known}, comments


def of_error(problem: str) -> tuple[Values, Comments]:
    """Values of a source that the text of an error asks for: a preset, or the category of a group of tags."""
    if match := _PRESET.search(problem):
        return {"preset": match[1]}, {}
    if match := _CATEGORY.search(problem):
        comment = "a guess: choose its category"
        return {"category_numbers": {match[1]: "general"}}, {("category_numbers", match[1]): comment}
    return {}, {}


def merged(values: Values, more: Values) -> Values:
    """`values` and `more`; of a table in both, the keys of both, where those of `values` win."""
    tables = {key: {**more[key], **values[key]} for key in more if isinstance(values.get(key), dict)}
    return {**values, **{key: value for key, value in more.items() if key not in values}, **tables}


def word_of(shown: str) -> str:
    """The text that `shown` is the literal of."""
    return str(ast.literal_eval(shown))


def _guessed_rating(word: str) -> tuple[str, str]:
    if word in _NUMBERED_RATINGS:
        return _NUMBERED_RATINGS[word], "a guess by its order"
    if word.lower() == "safe":
        return "g", "or \"s\": before 2022 Danbooru's safe covered today's g and s"
    first = next((rating for rating in RATINGS if word.lower().startswith(rating)), None)
    return (first, "a guess by its first letter") if first else ("q", "a guess: choose g, s, q or e")
