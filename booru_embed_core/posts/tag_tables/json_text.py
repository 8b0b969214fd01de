"""Tables of tags as JSON: lines, lists, and the wrappers that APIs put around them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final, cast

import pyarrow as pa
import pyarrow.json as pajson

from booru_embed_core.errors import first_line
from booru_embed_core.posts.readers.lines import BOM, raw_lines, unpacked_blocks, whole_lines
from booru_embed_core.posts.tag_tables.columns import (
    BLOCK_ROWS,
    Block,
    Role,
    TagRows,
    columns_by_role,
    describes_posts,
    is_header,
)
from booru_embed_core.posts.validation import ExportError

_NUM_TRIED_OBJECTS: Final = 100


def json_rows(file: Path, is_category: Callable[[Any], bool]) -> TagRows:
    """The rows of the JSON text `file`: objects by line, in lists or in a wrapper.

    An object of names and texts has categories if one of the texts `is_category`, and otherwise the tags of old names.
    """
    is_lines = _is_json_lines(file)
    objects = (
        (one for _, one in _line_objects(raw_lines(file), file, 1))
        if is_lines
        else _objects(file, _whole(file), is_category)
    )
    tried = list(islice(objects, _NUM_TRIED_OBJECTS))
    names = tuple(dict.fromkeys(name for one in tried for name in one))
    columns = columns_by_role(names)
    if not is_lines:
        blocks = _json_blocks(columns, enumerate(chain(tried, objects), start=1))
        return TagRows(names, frozenset(columns), "entry", blocks)
    schema = pa.schema([(name, _json_type([one.get(name) for one in tried])) for name in columns.values()])
    return TagRows(names, frozenset(columns), "line", _json_line_blocks(file, columns, schema))


def _json_type(values: Sequence[Any]) -> pa.DataType:
    return pa.int64() if all(type(value) is int for value in values) else pa.string()


def _json_line_blocks(file: Path, columns: Mapping[Role, str], schema: pa.Schema) -> Iterator[Block]:
    """The rows by Arrow, where values have the types of the first ones, and otherwise by Python."""
    number = 1
    for index, raw in enumerate(whole_lines(file)):
        block = raw.removeprefix(BOM) if index == 0 else raw
        num_lines = block.count(b"\n")
        try:
            table = pajson.read_json(
                cast("IO[bytes]", pa.BufferReader(block)),
                pajson.ReadOptions(use_threads=False, block_size=len(block) + 1),
                pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )
        except pa.ArrowInvalid:
            table = None
        if table is not None and table.num_rows == num_lines:
            values = {role: table.column(name).combine_chunks() for role, name in columns.items()}
            yield Block(range(number, number + num_lines), values)
        else:
            yield from _json_blocks(columns, _line_objects(block.split(b"\n"), file, number))
        number += num_lines


def _is_json_lines(file: Path) -> bool:
    """Whether the first line is the object of a row."""
    line = next((line for line in raw_lines(file) if line.strip()), b"")
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and _is_row(value)


def _is_row(value: Mapping[str, Any]) -> bool:
    """Whether an object is a row and not a wrapper of rows."""
    columns = columns_by_role(tuple(value))
    texts = [value[columns[role]] for role in (Role.NAME, Role.OLD) if role in columns]
    return is_header(tuple(value)) and not any(isinstance(text, (dict, list)) for text in texts)


def _line_objects(lines: Iterable[bytes], file: Path, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects in `lines`, each with its number, counted from `start`."""
    for number, line in enumerate(lines, start):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:  # a UnicodeDecodeError is one
            raise ExportError(f"{file} line {number}: not JSON ({first_line(error)}); correct the line") from None
        if not isinstance(value, dict):
            shown = line[:80].decode("utf-8", "replace")
            raise ExportError(f"{file} line {number}: {shown!r} is not an object; correct the line")
        yield number, value


def _whole(file: Path) -> Iterator[Any]:
    """The values of a text of JSON, which may be several in a row, as when pages of an API are written to one file."""
    try:
        text = b"".join(unpacked_blocks(file)).decode("utf-8-sig").strip()
        decoder = json.JSONDecoder()
        position = 0
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            yield value
            while text[position : position + 1].isspace():
                position += 1
    except ValueError as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(f"{file}: not JSON ({first_line(error)}); fetch the file again") from None


def _objects(file: Path, values: Iterable[Any], is_category: Callable[[Any], bool]) -> Iterator[dict[str, Any]]:
    """The rows in lists, in a wrapper such as ``{"tag": […]}``, or by name: ``{"solo": {…}}`` or ``{"solo": 0}``."""
    for value in values:
        if isinstance(value, list):
            yield from _objects(file, value, is_category)
        elif not isinstance(value, dict):
            raise ExportError(f"{file}: {str(value)[:80]!r} is not an object; wanted a list of objects, one a tag")
        elif _is_row(value):
            yield value
        else:
            yield from _wrapped(file, value, is_category)


def _wrapped(file: Path, value: dict[str, Any], is_category: Callable[[Any], bool]) -> Iterator[dict[str, Any]]:
    members = list(value.values())
    lists = [one for one in members if isinstance(one, list)]
    others = [one for one in members if not isinstance(one, list)]
    is_filled = len(lists) == 1 and bool(lists[0]) and isinstance(lists[0][0], dict) and not describes_posts(value)
    if is_filled or (len(lists) == 1 and not lists[0] and all(isinstance(one, dict) for one in others)):
        yield from _objects(file, lists[0], is_category)
    elif members and all(isinstance(one, dict) for one in members):
        yield from ({"name": name, **one} for name, one in value.items())
    elif members and (
        all(isinstance(one, int) for one in members)
        or (all(isinstance(one, str) for one in members) and any(map(is_category, members)))
    ):
        yield from ({"name": name, "category": one} for name, one in value.items())
    elif len(members) > 1 and all(isinstance(one, str) for one in members):
        yield from ({"antecedent_name": name, "consequent_name": one} for name, one in value.items())
    else:
        yield value


def _json_blocks(columns: Mapping[Role, str], objects: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[Block]:
    while some := list(islice(objects, BLOCK_ROWS)):
        values = {role: [one.get(name) for _, one in some] for role, name in columns.items()}
        yield Block([number for number, _ in some], values)
