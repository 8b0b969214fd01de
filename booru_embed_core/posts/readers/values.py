"""A post's values from what a file holds: text or numbers to ids, ratings, scores and flags, null where one is invalid.

What is null here is named by `values_problem` of ``validation.py``, which looks at one record at a time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import reduce
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from booru_embed_core.posts.arrow import joined
from booru_embed_core.posts.conventions import DANBOORU, NULL_WORDS, Conventions, flag_words
from booru_embed_core.posts.interning import bytes_of
from booru_embed_core.posts.readers.base import HIDDEN_COLUMN
from booru_embed_core.posts.validation import INT32_RANGE, has_all_tags
from booru_embed_core.schema import ALL_TAGS_COLUMN, FLAG_COLUMNS, TAG_COLUMNS

_WHOLE: Final = r"^-?[0-9]{1,19}(\.0+)?$"
_DIGITS: Final = re.compile("-?[0-9]+")
_MAX_DIGITS: Final = 19
_MINUS, _ZERO = b"-0"
_INT64_RANGE: Final = range(-(2**63), 2**63)


def fit_values(records: pa.Table | pa.RecordBatch, conventions: Conventions = DANBOORU) -> pa.RecordBatch:
    """The reader's batch of `records`, with any of a post's columns by canonical name, null where there is nothing.

    Tags stay as they are, text or lists of text; ``tag_fields.py`` looks into them. Other columns are text, or of a
    type that Arrow prints as the text of its values.
    """
    columns = {name: _one_array(records.column(name)) for name in records.schema.names}
    nothing = pa.nulls(len(records), pa.string())
    ids = _whole_numbers(columns.get("id", nothing))
    ratings, scores = (_text(columns.get(name, nothing)) for name in ("rating", "score"))
    fitting_scores = _within(_whole_numbers(columns.get("score", nothing)), INT32_RANGE).cast(pa.int32())
    return pa.RecordBatch.from_pydict(
        {
            # Ids of a site get its number in the bits above, so they must leave them free.
            "id": _within(ids, range(conventions.max_id + 1)) if conventions.has_site else ids,
            "rating": _with_default(_ratings(ratings, conventions), ratings, conventions.missing_rating),
            "score": _with_default(fitting_scores, scores, conventions.missing_score),
            **{name: columns.get(name, nothing) for name in _tag_fields(columns)},
            HIDDEN_COLUMN: _hidden(columns, len(records), conventions),
        }
    )


def _one_array(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> Any:
    return joined(column) if isinstance(column, pa.ChunkedArray) else column


def _text(values: Any) -> Any:
    return values if values.type == pa.string() else values.cast(pa.string())


def _tag_fields(columns: Collection[str]) -> tuple[str, ...]:
    return (ALL_TAGS_COLUMN,) if has_all_tags(columns) else TAG_COLUMNS


def _whole_numbers(values: Any) -> Any:
    """`values` as int64: Arrow's own cast would take ``0x1f`` for 31, and not ``7.0`` for 7."""
    if pa.types.is_signed_integer(values.type):
        return values.cast(pa.int64())
    text = _text(values)
    if not _is_plain(text):
        is_whole = pc.match_substring_regex(text, _WHOLE)
        whole = pc.replace_substring_regex(text, r"\..*", "")
        text = pc.if_else(is_whole, whole, pa.scalar(None, pa.string()))
    try:
        return text.cast(pa.int64())
    except pa.ArrowInvalid:  # a number above the range, or a minus within one
        return pa.array(map(_int64, text.to_pylist()), pa.int64())


def _int64(text: str | None) -> int | None:
    is_whole = text is not None and _DIGITS.fullmatch(text)
    return int(text) if text and is_whole and int(text) in _INT64_RANGE else None


def _is_plain(text: Any) -> bool:
    """Whether `text` has digits and minus signs alone, as nearly all numbers do."""
    if text.null_count:
        return False
    bounds, content = bytes_of(text)
    is_digit = content - np.uint8(_ZERO) < 10
    return bool(np.diff(bounds).max(initial=0) <= _MAX_DIGITS and (is_digit | (content == _MINUS)).all())


def _within(numbers: Any, allowed: range) -> Any:
    is_allowed = pc.and_(
        pc.greater_equal(numbers, pa.scalar(allowed[0])), pc.less_equal(numbers, pa.scalar(allowed[-1]))
    )
    return pc.if_else(is_allowed, numbers, pa.scalar(None, numbers.type))


def _ratings(text: Any, conventions: Conventions) -> Any:
    words, ratings = list(conventions.ratings), list(conventions.ratings.values())
    return pa.array(ratings, pa.string()).take(pc.index_in(text, value_set=pa.array(words, pa.string())))


def _with_default(values: Any, text: Any, default: str | int | None) -> Any:
    """`values` with the `default` where the `text` stands for nothing."""
    if default is None:
        return values
    is_nothing = pc.is_in(text.fill_null(""), value_set=pa.array(["", *NULL_WORDS], pa.string()))
    return pc.if_else(pc.and_(values.is_null(), is_nothing), pa.scalar(default, values.type), values)


def _hidden(columns: Mapping[str, Any], num_records: int, conventions: Conventions) -> Any:
    """Whether a flag is true; null where one is neither true nor false, whatever the others are."""
    flags = [_flag(name, _text(columns[name]), conventions) for name in FLAG_COLUMNS if name in columns]
    return reduce(pc.or_, flags) if flags else pa.repeat(False, num_records)


def _flag(name: str, text: Any, conventions: Conventions) -> Any:
    true, false = flag_words(name, conventions)
    text = text.fill_null("")
    is_true = pc.is_in(text, value_set=pa.array(true, pa.string()))
    if false is None:
        return is_true
    is_false = pc.is_in(text, value_set=pa.array(false, pa.string()))
    return pc.if_else(pc.or_(is_true, is_false), is_true, pa.scalar(None, pa.bool_()))
