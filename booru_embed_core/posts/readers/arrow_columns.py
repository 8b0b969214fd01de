"""The columns of a post in a table of Arrow, whatever types it has: for Parquet and its like.

A column may be nested: ``tags.general`` is the field ``general`` of the struct ``tags``. Numbers are read from any type
that holds them exactly. Tags are text, a list of text, or a list of structs with a name and a category. Labels of
Hugging Face's ``ClassLabel`` are read by their names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.readers.base import fit_values
from booru_embed_core.posts.tag_fields import INVALID_TAGS, RawValue
from booru_embed_core.posts.validation import ExportError, check_columns, has_all_tags, values_problem
from booru_embed_core.schema import (
    ALL_TAGS_COLUMN,
    CATEGORIES,
    FLAG_COLUMNS,
    POST_COLUMNS,
    TAG_COLUMNS,
    Category,
    tag_column,
)

_MAX_DEPTH: Final = 4
_EXACT_BITS: Final = {16: 11, 32: 24, 64: 53}
"""By the bits of a float, those of its significand: whole numbers below 2 to that power are exact."""
_FLOAT_BITS: Final = {exact: width for width, exact in _EXACT_BITS.items()}
_TAG_FIELDS: Final = (*TAG_COLUMNS, ALL_TAGS_COLUMN)
_NAME_FIELDS: Final = ("name", "tag")
_CATEGORY_FIELDS: Final = ("category", "type")
_ELEMENT_FIELDS: Final = ("element", "item")
_LIST_FIELD: Final = "list"
"""BigQuery writes an array as ``list<struct<element>>`` in the field ``list`` of a struct."""


@dataclass(frozen=True)
class _Column:
    """A leaf of the file's schema: its top column and the fields below, its type, and names of its labels."""

    path: tuple[str, ...]
    type: pa.DataType
    labels: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The path with dots; a list that is wrapped has its column's name."""
        is_wrapped = len(self.path) > 1 and self.path[-1] == _LIST_FIELD and _field_of(self, _ELEMENT_FIELDS)
        return ".".join(self.path[:-1] if is_wrapped else self.path)


class ArrowColumns:
    """The columns of a post in tables of `schema`, by canonical name.

    Raises:
        ExportError: a column is missing, or holds no tags.
    """

    def __init__(self, schema: pa.Schema, file: Path, conventions: Conventions) -> None:
        self._conventions = conventions
        leaves = list(_leaves(schema))
        found = [leaf.name for leaf in leaves]
        listed = _objects(leaves, conventions)
        if listed is not None:
            columns = TAG_COLUMNS if _field_of(listed, _CATEGORY_FIELDS) else (ALL_TAGS_COLUMN,)
            others = [name for name in found if name != listed.name]
            found = [*others, *columns]
            leaves = [*(leaf for leaf in leaves if leaf is not listed), *(listed for _ in columns)]
        canonical = check_columns(found, file, conventions, optional=FLAG_COLUMNS if listed is not None else ())
        spelled = dict(zip(canonical, leaves, strict=True))
        tags = (ALL_TAGS_COLUMN,) if has_all_tags(canonical) else TAG_COLUMNS
        wanted = (*(name for name in POST_COLUMNS if name not in TAG_COLUMNS), *tags, *FLAG_COLUMNS)
        self._columns: Mapping[str, _Column] = {name: spelled[name] for name in wanted if name in spelled}
        for name, column in self._columns.items():
            if not (_holds_tags(column) if name in tags else _is_plain(column.type)):
                types = "tags: string or list<string>" if name in tags else "string or a number"
                raise ExportError(
                    f"{file}: column {'.'.join(column.path)} has the type {column.type}, wanted {types}; write it so"
                )

    @property
    def sources(self) -> list[str]:
        """The top columns of the file that are read."""
        return list(dict.fromkeys(column.path[0] for column in self._columns.values()))

    def shown(self) -> dict[str, str]:
        """The file's name of each canonical column, with dots between fields."""
        return {name: ".".join(column.path) for name, column in self._columns.items()}

    @property
    def query(self) -> str:
        """The query of a reader's batches over the table ``records`` that `records` gives."""
        values = fit_values(
            lambda name: f'"{name}"' if name in _TAG_FIELDS else f'cast("{name}" as varchar)',
            tuple(self._columns),
            self._conventions,
        )
        return f"select {values} from records"  # noqa: S608

    def records(self, batch: pa.RecordBatch) -> pa.Table:
        """The raw values in `batch` by canonical column, in types that DuckDB reads."""
        columns = {}
        for name, column in self._columns.items():
            values: Any = batch.column(column.path[0])
            for key in column.path[1:]:
                values = pc.struct_field(values, key)
            columns[name] = self._tags(values, column, name) if name in _TAG_FIELDS else _plain(values, column)
        return pa.table(columns)

    def _tags(self, values: Any, column: _Column, name: str) -> Any:
        if _element(column) is None:
            return _text(values)
        if _field_of(column, (*_NAME_FIELDS, *_ELEMENT_FIELDS)):
            if not _field_of(column, _CATEGORY_FIELDS):
                return self._of_objects(values, column, None)
            return self._of_objects(values, column, next((c for c in CATEGORIES if tag_column(c) == name), None))
        return _list_of_text(values, column.labels)

    def _of_objects(self, values: Any, column: _Column, category: Category | None) -> Any:
        """The lists of names of one category, from lists of structs."""
        structs: Any = pc.list_flatten(values)
        parents = pc.list_parent_indices(values).to_numpy(zero_copy_only=False)
        names = _text(pc.struct_field(structs, _field_of(column, (*_NAME_FIELDS, *_ELEMENT_FIELDS)) or ""))
        if category is None:
            is_own = np.ones(len(names), dtype=np.bool_)
        else:
            numbers = _text(pc.struct_field(structs, _field_of(column, _CATEGORY_FIELDS) or ""))
            known = self._conventions.known_categories
            ids = [known.get(number or "") for number in numbers.to_pylist()]
            is_own = np.array([one == category for one in ids], dtype=np.bool_)
            is_unknown = np.array([one is None for one in ids], dtype=np.bool_)
            if is_unknown.any():
                names = pc.if_else(pa.array(is_unknown), pa.scalar(INVALID_TAGS), names)
                is_own |= is_unknown
        offsets = np.zeros(len(values) + 1, dtype=np.int32)
        np.cumsum(np.bincount(parents[is_own], minlength=len(values)), out=offsets[1:])
        return pa.ListArray.from_arrays(cast("pa.Int32Array", pa.array(offsets)), names.filter(pa.array(is_own)))

    def problem(self, values: Mapping[str, Any]) -> str | None:
        """Why a row of `records`, by canonical column, is no valid post; None where it is one."""
        raw: dict[str, RawValue] = {}
        for name, value in values.items():
            if isinstance(value, list) and INVALID_TAGS in value:
                return f"{name} holds a tag without a known category; set [posts] category_numbers"
            raw[name] = value if isinstance(value, list) else _shown(value)
        missing: dict[str, RawValue] = {name: None for name in POST_COLUMNS[:3] if name not in raw}
        return values_problem({**raw, **missing}, self._conventions)


def _leaves(schema: pa.Schema) -> Iterator[_Column]:
    """The columns of `schema` and the fields of structs among them."""
    labels = _labels(schema)

    def enter(path: tuple[str, ...], type_: pa.DataType) -> Iterator[_Column]:
        if pa.types.is_struct(type_) and len(path) < _MAX_DEPTH:
            for index in range(type_.num_fields):
                field = type_.field(index)
                yield from enter((*path, field.name), field.type)
        else:
            yield _Column(path, type_, labels.get(path[0], ()) if len(path) == 1 else ())

    for field in schema:
        yield from enter((field.name,), field.type)


def _labels(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """By column, the names of the labels that Hugging Face's metadata gives."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        inner = {name: feature.get("feature", feature) for name, feature in features.items()}
        return {
            name: tuple(map(str, feature["names"]))
            for name, feature in inner.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, AttributeError, TypeError):
        return {}


def _objects(leaves: list[_Column], conventions: Conventions) -> _Column | None:
    """The column of tags that are structs with a name."""
    named = conventions.columns.get(ALL_TAGS_COLUMN)
    for leaf in leaves:
        is_tags = leaf.name in ((named,) if named else ("tags", ALL_TAGS_COLUMN))
        if is_tags and _field_of(leaf, _NAME_FIELDS):
            return leaf
    return None


def _field_of(column: _Column, names: tuple[str, ...]) -> str | None:
    """The first of `names` that the structs in a list have; None where the column holds no such list."""
    struct: Any = _element(column)
    if struct is None or not pa.types.is_struct(struct):
        return None
    found = [struct.field(index).name for index in range(struct.num_fields)]
    return next((name for name in names if name in found), None)


def _holds_tags(column: _Column) -> bool:
    element = _element(column)
    if element is None:
        return _is_text(column.type)
    wrapped = _field_of(column, _ELEMENT_FIELDS)
    is_wrapped = wrapped is not None and _is_text(element.field(wrapped).type)
    return _is_text(element) or bool(column.labels) or _field_of(column, _NAME_FIELDS) is not None or is_wrapped


def _element(column: _Column) -> Any:
    """The type of the elements of a list; None for another type."""
    type_: Any = column.type
    return type_.value_type if _is_list(column.type) else None


def _is_plain(type_: pa.DataType) -> bool:
    """Whether values of this type are numbers, flags or words, and not bytes, times or several values."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return _is_text(type_) or any(is_kind(type_) for is_kind in kinds)


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    # Bytes would be read as DuckDB prints them. A column of nulls alone holds nothing.
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_kind(type_) for is_kind in kinds)


def _is_list(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)
    return any(is_kind(type_) for is_kind in (*kinds, pa.types.is_large_list_view))


def _list_of_text(values: Any, labels: tuple[str, ...]) -> Any:
    if labels:
        lists = values.to_pylist()
        return pa.array([one and [_label(label, labels) for label in one] for one in lists], pa.list_(pa.string()))
    if values.type.value_type == pa.string() and pa.types.is_list(values.type):
        return values
    try:
        return values.cast(pa.list_(pa.string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # views and dictionaries, for some kinds of lists
        return pa.array(values.to_pylist(), pa.list_(pa.string()))


def _text(values: Any) -> Any:
    return values if values.type == pa.string() else values.cast(pa.string())


def _label(number: int | None, labels: tuple[str, ...]) -> str | None:
    return labels[number] if number is not None and 0 <= number < len(labels) else _shown(number)


def _plain(values: Any, column: _Column) -> Any:
    """Numbers, flags or words of one column, in a type that DuckDB prints as the text of its value."""
    if column.labels:
        return pa.array([_label(number, column.labels) for number in values.to_pylist()], pa.string())
    type_ = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if pa.types.is_floating(type_):
        return _whole(values, _EXACT_BITS[type_.bit_width])
    if _is_text(type_):
        return _text(values)
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_):
        return values
    return pa.array([_shown(value) for value in values.to_pylist()], pa.string())


def _whole(values: Any, bits: int) -> Any:
    """Floats as whole numbers where each is one exactly and none is NaN, else as text; NaN is null."""
    numbers = np.array([np.nan if value is None else value for value in values.to_pylist()], dtype=np.float64)
    is_number = ~np.isnan(numbers)
    is_whole = is_number & (np.abs(numbers) < 2.0**bits)
    is_whole[is_whole] &= np.floor(numbers[is_whole]) == numbers[is_whole]
    whole = pa.array(np.where(is_whole, numbers, 0).astype(np.int64), mask=~is_whole)
    if (is_whole == is_number).all():
        return whole
    # A whole number above the range may have been another one, so its text must not pass for one.
    inexact = f" in a float of {_FLOAT_BITS[bits]} bits"
    texts = [
        f"{number!r}{inexact if number.is_integer() else ''}" if is_other else None
        for number, is_other in zip(numbers.tolist(), is_number & ~is_whole, strict=True)
    ]
    return pc.coalesce(whole.cast(pa.string()), pa.array(texts, pa.string()))


def _shown(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


class ArrowRows:
    """What readers of Arrow's tables share: a "line" is the row's number from 1."""

    columns: ArrowColumns

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, with the columns that are read."""
        raise NotImplementedError

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return record + 1

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`; the raw text is a JSON object of the columns that are read."""
        wanted = np.asarray(lines, dtype=np.int64) - 1
        start = 0
        for batch in self._raw_batches():
            first, last = np.searchsorted(wanted, [start, start + len(batch)])
            for index in (wanted[first:last] - start).tolist():
                row = batch.slice(index, 1)  # some types cannot be taken by index
                (shown,), (values,) = row.to_pylist(), self.columns.records(row).to_pylist()
                raw = json.dumps(shown, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
                yield start + index + 1, raw, self.columns.problem(values)
            start += len(batch)
