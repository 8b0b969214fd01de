"""Where the values of a post stand in a JSON object: flat keys, nested ones, lists, or objects that name a category.

The layout is found from the first objects of a file. Keys may differ from object to object: many writers leave out what
is false or empty. One query takes the values out of objects as text, and Python does the same to explain a rejected
record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import ijson

from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.database import quoted
from booru_embed_core.posts.readers.base import fit_values
from booru_embed_core.posts.tag_fields import INVALID_TAGS, RawValue
from booru_embed_core.posts.validation import ExportError, check_columns, has_all_tags, values_problem
from booru_embed_core.schema import (
    ALL_TAGS_COLUMN,
    CATEGORIES,
    FLAG_COLUMNS,
    POST_COLUMNS,
    TAG_COLUMNS,
    TAG_SEPARATOR,
    Category,
    tag_column,
)

SAMPLE_OBJECTS: Final = 1000
BROKEN_JSON: Final = (ijson.JSONError, UnicodeDecodeError)
"""What parsing a stream of text that is no JSON raises."""
_MAX_DEPTH: Final = 4
_NAME_KEYS: Final = ("name", "tag")
_CATEGORY_KEYS: Final = ("category", "type", "category_name")


class _Kind(StrEnum):
    """How tags stand at a path."""

    TEXT = "text"
    LIST = "list"
    OBJECTS = "objects"


@dataclass(frozen=True)
class _Field:
    """A value of a post: the keys that lead to it, and how tags stand there."""

    paths: tuple[tuple[str, ...], ...]
    kind: _Kind = _Kind.TEXT
    category: Category | None = None
    """For objects, the category of the tags that are taken."""


@dataclass(frozen=True)
class JsonLayout:
    """The place of each value of a post, by canonical column."""

    fields: Mapping[str, _Field]
    conventions: Conventions
    name_key: str = "name"
    category_key: str = "category"
    groups_at: tuple[str, ...] | None = None
    """Where an object has groups of tags by category; a record with a group of no known category is invalid."""

    @classmethod
    def of(cls, objects: Iterable[Mapping[str, Any]], file: Path, conventions: Conventions) -> JsonLayout:
        """The layout of `objects`, the first ones of `file`.

        Raises:
            ExportError: a column is missing, or a group of tags has no category.
        """
        sample = list(objects)
        values = _values_by_path(sample)
        found = tuple(".".join(path) for path in values)
        listed = _objects_path(values, conventions)
        if listed is not None:
            return cls._of_objects(values, listed, found, file, conventions)
        spelled = dict(zip(conventions.canonical(found), values, strict=True))
        # Only a key such as `general` stands among groups of tags; `tag_string_general` is a column of a nested post.
        nested = [p for name, p in spelled.items() if name in TAG_COLUMNS and len(p) > 1 and p[-1] in tuple(Category)]
        is_sparse = any(name in TAG_COLUMNS and path != (name,) for name, path in spelled.items())
        optional = (*FLAG_COLUMNS, *(TAG_COLUMNS if is_sparse else ()))
        columns = check_columns(found, file, conventions, optional)
        wanted = (ALL_TAGS_COLUMN,) if has_all_tags(columns) else TAG_COLUMNS
        fields = _values(spelled)
        groups = _groups(values, nested[0][:-1], file, conventions) if nested else {}
        listed_at = {path for path, found in values.items() if any(isinstance(value, list) for value in found)}
        paths_of = {}
        for name in wanted:
            own = spelled.get(name) or _expected_path(name, spelled if is_sparse else {}, conventions)
            if paths := tuple(dict.fromkeys((*((own,) if own else ()), *groups.get(name, ())))):
                paths_of[name] = paths
        has_lists = any(path in listed_at or len(paths) > 1 for paths in paths_of.values() for path in paths)
        fields |= {name: _Field(paths, _Kind.LIST if has_lists else _Kind.TEXT) for name, paths in paths_of.items()}
        parent = nested[0][:-1] if nested and not set(conventions.columns) & set(TAG_COLUMNS) else None
        return cls({**fields, **_flags(spelled, conventions)}, conventions, groups_at=parent)

    @classmethod
    def _of_objects(
        cls,
        values: Mapping[tuple[str, ...], list[Any]],
        listed: tuple[str, ...],
        found: tuple[str, ...],
        file: Path,
        conventions: Conventions,
    ) -> JsonLayout:
        """The layout where tags are a list of objects, each with a name and perhaps a category."""
        tags = [tag for value in values[listed] if isinstance(value, list) for tag in value if isinstance(tag, dict)]
        name_key = next(key for key in _NAME_KEYS if any(key in tag for tag in tags))
        category_key = next((key for key in _CATEGORY_KEYS if any(key in tag for tag in tags)), None)
        others = [name for name in found if name not in ("tags", *TAG_COLUMNS, ALL_TAGS_COLUMN)]
        tag_columns = (ALL_TAGS_COLUMN,) if category_key is None else TAG_COLUMNS
        check_columns([*others, *tag_columns], file, conventions, optional=(*FLAG_COLUMNS, *conventions.columns))
        spelled = dict(zip(conventions.canonical(found), values, strict=True))
        fields = _values(spelled)
        if category_key is None:
            fields[ALL_TAGS_COLUMN] = _Field((listed,), _Kind.OBJECTS)
        else:
            fields |= {tag_column(c): _Field((listed,), _Kind.OBJECTS, c) for c in CATEGORIES}
        return cls({**fields, **_flags(spelled, conventions)}, conventions, name_key, category_key or "category")

    @property
    def columns(self) -> tuple[str, ...]:
        """The canonical columns that are there."""
        return tuple(self.fields)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of an object that are read."""
        return frozenset(path[0] for field in self.fields.values() for path in field.paths)

    def line(self, record: Mapping[str, Any]) -> str:
        """The text of `record` with the keys that are read.

        Raises:
            UnicodeEncodeError: half of a surrogate pair is in one of them, which DuckDB does not take.
        """
        text = json.dumps({key: value for key, value in record.items() if key in self.keys}, ensure_ascii=False)
        text.encode("utf-8")
        return text

    def shown(self) -> dict[str, str]:
        """The file's name of each canonical column, with dots between keys."""
        return {name: " + ".join(".".join(path) for path in field.paths) for name, field in self.fields.items()}

    @property
    def query(self) -> str:
        """The query of a reader's batches over the table ``records`` of a column ``line``, text of one object each.

        ``json_extract`` parses a line once for a list of paths.
        """
        parents = () if self.groups_at is None else (self.groups_at,)
        paths = list(dict.fromkeys((*(path for field in self.fields.values() for path in field.paths), *parents)))
        pointers = ", ".join(quoted("$" + "".join(f'."{key}"' for key in path)) for path in paths)

        def text_of(name: str) -> str:
            field = self.fields[name]
            values = [f"v[{paths.index(path) + 1}]" for path in field.paths]
            if name not in (*TAG_COLUMNS, ALL_TAGS_COLUMN):
                return f"({values[0]}->>'$')"
            tags = self._tags_of(field, values)
            if self.groups_at is None or name != tag_column(Category.GENERAL):
                return tags
            invalid = f"[{_INVALID}]" if field.kind is _Kind.LIST else _INVALID
            return f"(case when {self._has_other_groups(f'v[{len(paths)}]')} then {invalid} else {tags} end)"

        objects = "case when json_valid(line) then line end"
        extracted = f"select json_extract({objects}, [{pointers}]) as v from records"  # noqa: S608
        return f"select {fit_values(text_of, self.columns, self.conventions)} from ({extracted})"  # noqa: S608

    def _has_other_groups(self, parent: str) -> str:
        """Whether the object `parent` has a group of tags that is not empty and of no known category."""
        known = ", ".join(map(quoted, self.conventions.known_categories))
        value = f"""coalesce(json_extract_string({parent}, '$."' || replace(k, '"', '') || '"'), '')"""
        others = f"lambda k: k not in ({known}) and {value} not in ('', '[]', '{{}}')"
        return f"len(list_filter(json_keys({parent}), {others})) > 0"

    def _tags_of(self, field: _Field, values: Sequence[str]) -> str:
        if field.kind is _Kind.TEXT:
            value = values[0]
            return (
                f"(case when json_type({value}) = 'VARCHAR' then {value}->>'$' "
                f"when {_is_something(value)} then {_INVALID} end)"
            )
        if field.kind is _Kind.LIST:
            lists = [_list_of(value) for value in values]
            return lists[0] if len(lists) == 1 else f"list_concat({', '.join(lists)})"
        (value,) = values
        tags = f"""from_json({value}, '[{{"{self.name_key}":"VARCHAR","{self.category_key}":"VARCHAR"}}]')"""
        names = f"lambda t: t.{self.name_key}"
        if field.category is None:
            return f"list_transform({tags}, {names})"
        key = f"t.{self.category_key}"
        known = self.conventions.known_categories
        own = ", ".join(quoted(number) for number, category in known.items() if category == field.category)
        every = ", ".join(map(quoted, known))
        return (
            f"(case when len(list_filter({tags}, lambda t: coalesce({key}, '') not in ({every}))) > 0 "
            f"then [{_INVALID}] else list_transform(list_filter({tags}, lambda t: {key} in ({own})), {names}) end)"
        )

    def problem(self, record: object) -> str | None:
        """Why `record`, a parsed JSON value, is no valid post; None where it is one."""
        if not isinstance(record, dict):
            return "not a JSON object"
        values: dict[str, RawValue] = {}
        for name, field in self.fields.items():
            found = [_at(record, path) for path in field.paths]
            if name in (*TAG_COLUMNS, ALL_TAGS_COLUMN):
                value, problem = self._raw_tags(name, field, found)
                if problem:
                    return problem
                values[name] = value
            else:
                values[name] = _text(found[0])
        missing: dict[str, RawValue] = {name: None for name in POST_COLUMNS[:3] if name not in values}
        groups = _at(record, self.groups_at) if self.groups_at else None
        for group, tags in groups.items() if isinstance(groups, dict) else ():
            if tags and group not in self.conventions.known_categories:
                return f"{group} is a group of tags without a category; set [posts.category_numbers]"
        return values_problem({**values, **missing}, self.conventions)

    def _raw_tags(self, name: str, field: _Field, found: Sequence[Any]) -> tuple[RawValue, str | None]:
        if field.kind is _Kind.TEXT:
            (value,) = found
            if isinstance(value, str):
                return value, None
            return None, None if _is_nothing(value) else f"{name} is not a string: {json.dumps(value)[:40]}"
        if field.kind is _Kind.LIST:
            tags: list[str | None] = []
            for value in found:
                if isinstance(value, str):
                    tags += value.split(TAG_SEPARATOR)
                elif isinstance(value, list) and not any(isinstance(tag, dict | list) for tag in value):
                    tags += map(_text, value)
                elif not _is_nothing(value):
                    return None, f"{name} is not a list of strings: {json.dumps(value)[:40]}"
            return tags, None
        (value,) = found
        known = self.conventions.known_categories
        for tag in value if isinstance(value, list) else ():
            number = _text(tag.get(self.category_key)) if isinstance(tag, dict) else None
            if field.category is not None and (number or "") not in known:
                return None, f"the tag {json.dumps(tag)[:60]} has an unknown category; set [posts] category_numbers"
        return None, None


_INVALID: Final = "chr(13) || chr(10)"
assert INVALID_TAGS == "\r\n"


def _is_something(value: str) -> str:
    """Whether a JSON value is more than null, and more than what pandas or Lua write for no tags: NaN or ``{}``."""
    text = f"{value}->>'$'"
    return f"(coalesce(json_type({value}), 'NULL') = 'VARCHAR' or coalesce({text}, 'NaN') not in ('NaN', '{{}}'))"


def _is_nothing(value: object) -> bool:
    """`_is_something` of a parsed value, negated."""
    return value is None or value == {} or (isinstance(value, float) and math.isnan(value))


def _list_of(value: str) -> str:
    """The tags of a list, or of text with spaces, as an SQL list."""
    nested = f"(len(list_filter(json_extract({value}, '$[*]'), lambda t: json_type(t) in ('OBJECT', 'ARRAY'))) > 0)"
    return (
        f"(case when not {_is_something(value)} then [] "
        f"when json_type({value}) = 'VARCHAR' then string_split({value}->>'$', ' ') "
        f"when json_type({value}) = 'ARRAY' and not {nested} then from_json({value}, '[\"VARCHAR\"]') "
        f"else [{_INVALID}] end)"
    )


def _values_by_path(sample: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], list[Any]]:
    """The values of all objects at each path, in the order in which the paths appear; objects are entered."""
    values: dict[tuple[str, ...], list[Any]] = {}

    def enter(record: Mapping[str, Any], parents: tuple[str, ...]) -> None:
        for key, value in record.items():
            path = (*parents, key)
            if isinstance(value, dict) and len(path) < _MAX_DEPTH:
                enter(value, path)
            else:
                values.setdefault(path, []).append(value)

    for record in sample:
        enter(record, ())
    # A value may be an object here and nothing there; then it is the object that counts.
    return {
        path: found
        for path, found in values.items()
        if not (all(value is None for value in found) and any(other[: len(path)] == path != other for other in values))
    }


def _objects_path(values: Mapping[tuple[str, ...], list[Any]], conventions: Conventions) -> tuple[str, ...] | None:
    """The path of a list of tags that are objects with a name."""
    named = conventions.columns.get(ALL_TAGS_COLUMN)
    for path, found in values.items():
        if ".".join(path) in ((named,) if named else ("tags", ALL_TAGS_COLUMN)):
            tags = [tag for value in found if isinstance(value, list) for tag in value]
            if tags and all(isinstance(tag, dict) and any(key in tag for key in _NAME_KEYS) for tag in tags):
                return path
    return None


def _groups(
    values: Mapping[tuple[str, ...], list[Any]], parent: tuple[str, ...], file: Path, conventions: Conventions
) -> dict[str, list[tuple[str, ...]]]:
    """By tag column, the paths of the other groups of tags below `parent`, as on e621.

    Raises:
        ExportError: a group that is not empty has no category.
    """
    known = conventions.known_categories
    named = set(conventions.columns.values())
    groups: dict[str, list[tuple[str, ...]]] = {}
    for path, found in values.items():
        name = path[-1]
        if path[:-1] != parent or ".".join(path) in named or name in tuple(Category):
            continue
        if not any(found):
            continue
        if name not in known:
            raise ExportError(
                f"{file}: {'.'.join(path)} is a group of tags without a category; set [posts.category_numbers] "
                f'{name} = "general", or another category'
            )
        groups.setdefault(tag_column(known[name]), []).append(path)
    return groups


def _expected_path(
    name: str, spelled: Mapping[str, tuple[str, ...]], conventions: Conventions
) -> tuple[str, ...] | None:
    """Where the tags of column `name` stand if the first objects have none, beside those of other categories."""
    if name in conventions.columns or name not in TAG_COLUMNS:
        return None
    category = name.removeprefix("tag_string_")
    for other, path in spelled.items():
        if other in TAG_COLUMNS and path[-1].endswith(other.removeprefix("tag_string_")):
            return (*path[:-1], path[-1].removesuffix(other.removeprefix("tag_string_")) + category)
    return None


def _values(spelled: Mapping[str, tuple[str, ...]]) -> dict[str, _Field]:
    return {name: _Field((spelled[name],)) for name in ("id", "rating", "score") if name in spelled}


def _flags(spelled: Mapping[str, tuple[str, ...]], conventions: Conventions) -> dict[str, _Field]:
    """The flags, which are looked for in every object, also where the first ones have none."""
    others = {source for name, source in conventions.columns.items() if name not in FLAG_COLUMNS}
    flags = {}
    for name in FLAG_COLUMNS:
        source = conventions.source(name)
        # A key of a flag's name is none where the settings give it to another column.
        if source and source not in others:
            flags[name] = _Field((spelled.get(name, tuple(source.split("."))),))
    return flags


def _at(record: object, path: Sequence[str]) -> Any:
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
