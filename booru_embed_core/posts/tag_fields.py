"""Raw fields of tags, as an export writes them, to canonical ones: tags separated by U+0020.

Tags may be separated by spaces, commas, semicolons or vertical bars, be a printed list such as ``['long hair',
'book']``, or be a list. Which it is, and which words stand for nothing, is found out from the first records of a file
where the settings do not say.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import NULL_WORDS, Conventions
from booru_embed_core.posts.interning import bytes_of
from booru_embed_core.schema import ALL_TAGS_COLUMN, TAG_COLUMNS, TAG_SEPARATOR

RawValue: TypeAlias = str | list[str | None] | None
"""A field as a file has it."""

INVALID_TAGS: Final = "\r\n"
"""What a reader gives for a field of tags that is neither text nor a list; no field may hold a line break."""

LINE_SEPARATOR: Final = "\n"
"""The separator of fields with a tag a line."""

TAG_FIELDS: Final = (*TAG_COLUMNS, ALL_TAGS_COLUMN)
SAMPLE_RECORDS: Final = 1000
"""How many records of a file are looked at."""

MAX_POST_TAGS: Final = 65_535
"""A post with more tags is rejected: the packed file counts the tags of a category in 16 bits."""

ALWAYS_NULL: Final = "\\N"
"""No tag of any site, but what PostgreSQL and MySQL write for nothing."""
_MIN_LIST_SHARE: Final = 0.9
_MIN_COMMA_SHARE: Final = 0.5
_MIN_NULL_SHARE: Final = 0.01
_OTHER_MARKS: Final = (";", "|")
_MIN_MARKS: Final = 3
# Brackets around a field are also two tags such as `(o)_(o)` and `(k)`; in a tuple of Python all tags have quotes.
_PRINTED_LIST: Final = re.compile(r"""\s*(?:\[.*\]|\{.*\}|\((?:\s*["'].*)?\)|set\(\))\s*""", re.DOTALL)
_SET: Final = "set()"
_LIST_NULLS: Final = ("None", "NULL", "null", "nan", "NaN", "<NA>")
"""What stands without quotes in a list for nothing."""
_LISTED_WORDS: Final = ("[]", "{}")
_LINE_BREAK: Final = r"\r\n|\r|\n"
_ITEM: Final = re.compile(
    r"""\s*
    (?: "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>(?:[^'\\]|\\.)*)' | (?P<bare>[^,"'][^,]*) )
    \s*(?:,|(?=["'])|$)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)


def settled(sample: pa.Table, conventions: Conventions) -> Conventions:
    """`conventions` with what they leave open decided by `sample`, the first `SAMPLE_RECORDS` of a reader."""
    if conventions.is_settled:
        return conventions
    columns = [name for name in TAG_FIELDS if name in sample.schema.names and not _is_list(sample.column(name).type)]
    fields = {name: [text or "" for text in sample.column(name).to_pylist()] for name in columns}
    separator, words = conventions.tag_separator, conventions.null_words
    found = _null_words(fields) if words is None else words
    separator = _separator(fields, found) if separator == "auto" else separator
    if words is None and separator == "list":
        found = tuple(word for word in found if word not in _LISTED_WORDS)
    return replace(conventions, tag_separator=separator, null_words=found)


def _null_words(fields: dict[str, list[str]]) -> tuple[str, ...]:
    """The words that stand for nothing: they are whole fields, and fields that could be empty never are.

    ``null`` and ``nan`` are tags too. One is a word for nothing where it is the whole field of two columns, or of every
    hundredth record.
    """
    words = [ALWAYS_NULL]
    for word in (word for word in NULL_WORDS if word != ALWAYS_NULL):
        holders = [texts for texts in fields.values() if word in texts]
        is_frequent = len(holders) > 1 or any(texts.count(word) > _MIN_NULL_SHARE * len(texts) + 1 for texts in holders)
        if is_frequent and not any("" in texts for texts in holders):
            words.append(word)
    return tuple(words)


def _separator(fields: dict[str, list[str]], null_words: Sequence[str]) -> str:
    texts = [text for column in fields.values() for text in column if text and text not in null_words]
    if are_lists(texts):
        return "list"
    records = list(zip(*fields.values(), strict=True))
    for mark in _OTHER_MARKS:
        if _separates(mark, records):
            return mark
    num_commas = sum(any("," in text for text in record) for record in records)
    num_spaces = sum(
        any(TAG_SEPARATOR in text.strip() for text in record) and not any("," in text for text in record)
        for record in records
    )
    has_commas = num_commas > 0 and num_commas >= _MIN_COMMA_SHARE * (num_commas + num_spaces)
    # Commas in one column and spaces in another: commas are then refused, and no field is read as one tag.
    return "," if has_commas and not any(map(_has_spaces, fields.values())) else TAG_SEPARATOR


def _has_spaces(texts: Sequence[str]) -> bool:
    """Whether most fields of several words are tags separated by spaces, for they have underscores and no comma."""
    several = [text for text in texts if "," in text or text.strip().count(TAG_SEPARATOR) > 1]
    num_spaced = sum("," not in text and "_" in text for text in several)
    return num_spaced > _MIN_COMMA_SHARE * len(several)


def are_lists(texts: Sequence[str]) -> bool:
    """Whether `texts` are printed lists; nearly all must be, since tags have brackets too."""
    num_lists = sum(bool(_PRINTED_LIST.fullmatch(text)) for text in texts)
    return num_lists > 0 and num_lists >= _MIN_LIST_SHARE * len(texts)


def _separates(mark: str, records: Sequence[Sequence[str]]) -> bool:
    """Whether in nearly all records of several tags they have `mark` behind each, as in ``1girl;long hair;solo``.

    Tags hold such marks too, such as ``steins;gate``, ``;)`` and ``:|``, so it must be as frequent as tags are.
    """
    one = re.escape(mark)
    is_listed = re.compile(rf"(?:[^{one}]*[^{one}\s]{one})+[^{one}]*")
    several = [record for record in records if any(mark in text or TAG_SEPARATOR in text.strip() for text in record)]
    num_listed = sum(any(is_listed.fullmatch(text.strip()) for text in record) for record in several)
    texts = [text.strip() for record in several for text in record]
    num_marks, num_spaces = (sum(text.count(char) for text in texts) for char in (mark, TAG_SEPARATOR))
    return (
        num_listed >= _MIN_LIST_SHARE * len(several)
        and any(text.count(mark) >= _MIN_MARKS for text in texts)
        and num_marks * 3 >= num_spaces
    )


def canonical_fields(batch: pa.RecordBatch, conventions: Conventions) -> tuple[pa.RecordBatch, int]:
    """`batch` with canonical fields, null where one is invalid, and how many fields were a word for nothing.

    `conventions` are settled.
    """
    num_words = 0
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in (name for name in TAG_FIELDS if name in columns):
        columns[name], num = _canonical(columns[name], conventions)
        num_words += num
    _reject_long(columns)
    return pa.RecordBatch.from_pydict(columns), num_words


def _reject_long(columns: dict[str, pa.Array[Any]]) -> None:
    """Sets a field of tags to null in posts of more than `MAX_POST_TAGS`."""
    names = [name for name in TAG_FIELDS if name in columns]
    num_bytes = np.zeros(len(columns[names[0]]) if names else 0, dtype=np.int64)
    for name in names:
        num_bytes += np.diff(bytes_of(columns[name])[0])
    rows = np.flatnonzero(num_bytes > MAX_POST_TAGS)  # a tag and its separator have two bytes or more
    if not len(rows):
        return
    longest: Any = pa.array(rows)
    fields = [columns[name].take(longest).fill_null("").to_pylist() for name in names]
    num_tags = np.array([_num_tags(post) for post in zip(*fields, strict=True)])
    is_long = np.zeros(len(num_bytes), dtype=np.bool_)
    is_long[rows[num_tags > MAX_POST_TAGS]] = True
    columns[names[0]] = pc.if_else(pa.array(is_long), pa.scalar(None, pa.string()), columns[names[0]])


def _num_tags(fields: Sequence[str]) -> int:
    """How many tags the canonical `fields` of a post hold."""
    return sum(len(list(filter(None, field.split(TAG_SEPARATOR)))) for field in fields)


def _canonical(column: pa.Array[Any], conventions: Conventions) -> tuple[pa.Array[Any], int]:
    if _is_list(column.type):
        return _joined(column, conventions), 0
    text: Any = column if column.type == pa.string() else column.cast(pa.string())
    num_words = 0
    words = conventions.null_words or ()
    if words and (num_words := len(rows := _rows_of(words, text))):
        is_word = np.zeros(len(text), dtype=np.bool_)
        is_word[rows] = True
        text = pc.if_else(pa.array(is_word), pa.scalar(None, pa.string()), text)
    if text.null_count:
        text = text.fill_null("")
    if conventions.html_entities and _holds(text, "&"):
        text = pa.array([html.unescape(one) for one in text.to_pylist()], pa.string())
    if conventions.tag_separator == "list":
        return _from_lists(text, conventions), num_words
    if conventions.tag_separator == LINE_SEPARATOR:
        is_field: Any = pc.not_equal(text, pa.scalar(INVALID_TAGS))
        lines = _joined(pc.split_pattern_regex(text, pattern=_LINE_BREAK), conventions)
        return pc.if_else(is_field, lines, pa.scalar(None, pa.string())), num_words
    is_invalid = _has_break(text)
    separator = conventions.tag_separator
    if separator != "," and not conventions.allow_commas and _holds(text, ","):
        commas: Any = pc.match_substring(text, ",")
        is_invalid = commas if is_invalid is None else pc.or_(is_invalid, commas)
    if separator in (",", *_OTHER_MARKS):
        text = _from_marks(text, separator)
    if is_invalid is not None:
        text = pc.if_else(is_invalid, pa.scalar(None, pa.string()), text)
    return text, num_words


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_)


def _holds(text: Any, character: str) -> bool:
    """Whether any of the strings `text` holds the ASCII `character`: one look at their bytes, as they lie."""
    _, content = bytes_of(text)
    return bool((content == ord(character)).any())


def _rows_of(words: Sequence[str], text: Any) -> NDArray[np.int64]:
    """Indices of the strings of `text` that are one of `words`; only those of their lengths are compared."""
    bounds, _ = bytes_of(text)
    rows = np.flatnonzero(np.isin(np.diff(bounds), [len(word.encode()) for word in words]))
    is_word: Any = pc.is_in(text.take(pa.array(rows)), value_set=pa.array(words, pa.string()))
    return cast("NDArray[np.int64]", rows[is_word.to_numpy(zero_copy_only=False)])


def _has_break(text: Any) -> Any:
    """Which strings hold a line break; None where none does."""
    if not (_holds(text, "\n") or _holds(text, "\r")):
        return None
    return pc.or_(pc.match_substring(text, "\n"), pc.match_substring(text, "\r"))


def _from_marks(text: Any, mark: str) -> Any:
    # Captions escape the parentheses of a tag, which prompts would read as weights.
    text = pc.replace_substring_regex(text, r"\\([()])", r"\1")
    text = pc.replace_substring_regex(text, rf"\s*{re.escape(mark)}\s*", mark)
    text = pc.replace_substring(pc.ascii_trim_whitespace(text), TAG_SEPARATOR, "_")
    return pc.replace_substring(text, mark, TAG_SEPARATOR)


def _from_lists(text: Any, conventions: Conventions) -> pa.Array[Any]:
    parsed = (list_items(one) for one in text.to_pylist())
    return pa.array([None if tags is None else _field_of(tags, conventions) for tags in parsed], pa.string())


def _joined(column: Any, conventions: Conventions) -> pa.Array[Any]:
    """The field of each list; a tag that is null or empty is none, and spaces in a tag become underscores."""
    column = column.cast(pa.list_(pa.string())).fill_null([])
    tags: Any = pc.list_flatten(column)
    if tags.null_count or _holds(tags, ",") or _has_break(tags) is not None or conventions.html_entities:
        return pa.array([_field_of(one, conventions) for one in column.to_pylist()], pa.string())
    tags = pc.replace_substring(pc.utf8_trim(tags, TAG_SEPARATOR), TAG_SEPARATOR, "_")
    offsets = pc.cumulative_sum(pa.concat_arrays([pa.array([0], pa.int32()), pc.list_value_length(column)]))
    # An empty tag leaves two separators side by side, which enclose none.
    return cast("pa.Array[Any]", pc.binary_join(pa.ListArray.from_arrays(offsets, tags), TAG_SEPARATOR))


def _field_of(tags: Sequence[str | None], conventions: Conventions) -> str | None:
    """The canonical field of `tags`; None where one holds a line break."""
    texts = [tag.strip(TAG_SEPARATOR) for tag in tags if tag]
    if conventions.html_entities:
        texts = [html.unescape(text) for text in texts]
    if any("\n" in text or "\r" in text for text in texts):
        return None
    return TAG_SEPARATOR.join(text.replace(TAG_SEPARATOR, "_") for text in texts if text)


def list_items(text: str) -> list[str] | None:
    """The items of a printed list: Python's, numpy's, JSON's or PostgreSQL's, or one without quotes; None if none."""
    if text != INVALID_TAGS and not text.strip():
        return []
    if not _PRINTED_LIST.fullmatch(text):
        return None
    body = "" if text.strip() == _SET else text.strip()[1:-1].strip()
    items: list[str] = []
    nulls, has_bare, position = [], False, 0
    while position < len(body):
        match = _ITEM.match(body, position)
        if match is None or match.end() == position:
            return None
        quoted = match["double"] if match["double"] is not None else match["single"]
        item = match["bare"].strip() if quoted is None else _ESCAPE.sub(_unescaped, quoted)
        if quoted is None and item in _LIST_NULLS:
            nulls.append(len(items))
        has_bare |= quoted is None and item not in _LIST_NULLS
        items.append(item)
        position = match.end()
    # Where tags have no quotes, `null` may be one; databases write NULL for nothing there.
    for index in reversed(nulls):
        if not has_bare or items[index] == "NULL":
            del items[index]
    return items


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code is None:
        return {"n": "\n", "t": "\t", "r": "\r"}.get(match[4], match[4])
    return chr(int(code, 16)) if int(code, 16) < 0x110000 else match[0]


def length_problem(values: Mapping[str, RawValue], conventions: Conventions) -> str | None:
    """Why a post with the raw `values` has too many tags; None where it has not."""
    given = [value for value in map(values.get, TAG_FIELDS) if value is not None]
    types = [pa.list_(pa.string()) if isinstance(value, list) else pa.string() for value in given]
    columns = [_canonical(pa.array([value], type_), conventions)[0] for value, type_ in zip(given, types, strict=True)]
    num_tags = _num_tags([column[0].as_py() or "" for column in columns])
    return f"{num_tags} tags, more than {MAX_POST_TAGS}" if num_tags > MAX_POST_TAGS else None


def field_problem(name: str, value: RawValue, conventions: Conventions) -> str | None:
    """Why the raw `value` of the column `name` is no field of tags; None where it is one."""
    if value is None or (isinstance(value, str) and value in (conventions.null_words or ())):
        return None
    tags = value if isinstance(value, list) else None
    if isinstance(value, str) and conventions.tag_separator == "list":
        tags = cast("list[str | None] | None", list_items(value))
        if tags is None:
            return f"{name} {value[:40]!r} is no list; set [posts] tag_separator"
    texts = [tag for tag in tags if tag] if tags is not None else [str(value)]
    is_a_tag_a_line = tags is None and conventions.tag_separator == LINE_SEPARATOR
    if any(set("\r\n") & set(text) for text in texts) and (not is_a_tag_a_line or value == INVALID_TAGS):
        return f"a line break inside {name}"
    refuses_commas = conventions.tag_separator in (TAG_SEPARATOR, *_OTHER_MARKS) and not conventions.allow_commas
    if tags is None and refuses_commas and "," in texts[0]:
        return (
            f"a comma inside {name}: {_around_comma(texts[0])!r}; set [posts] tag_separator to ',' if commas separate "
            "the tags, or to ' ' if this is a tag"
        )
    return None


def _around_comma(text: str) -> str:
    return next(word for word in text.split(TAG_SEPARATOR) if "," in word)[:40]
