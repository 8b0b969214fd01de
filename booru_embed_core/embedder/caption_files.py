"""Captions with their ids from files: lines of text, JSON lines, Parquet.

What belongs here: what a row holds, and errors that name it. How a caption is read is in ``captions``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from booru_embed_core.embedder.captions import Caption
from booru_embed_core.errors import disk_errors, first_line, shortened, shown

if TYPE_CHECKING:
    import pyarrow as pa


class InputFormat(StrEnum):
    """How a file holds captions."""

    TEXT = "text"
    """One caption a line."""
    JSONL = "jsonl"
    """One JSON value a line."""
    PARQUET = "parquet"


_SUFFIXES: Final = {
    ".txt": InputFormat.TEXT,
    ".jsonl": InputFormat.JSONL,
    ".ndjson": InputFormat.JSONL,
    ".parquet": InputFormat.PARQUET,
    ".pq": InputFormat.PARQUET,
}
_COMPRESSED: Final = (".gz", ".zst", ".bz2", ".xz", ".lz4")
_COLUMNS: Final = ("caption", "tags")
"""The columns, or keys, that are taken for the captions unless another is named."""
_ID: Final = "id"
_MAX_LINE_BYTES: Final = 1 << 20
_MAX_ID: Final = 2**63
STDIN: Final = "standard input"


class CaptionFileError(ValueError):
    """A row holds no caption, or the file cannot be read; names file, row, value and a remedy."""


@dataclass(frozen=True)
class Row:
    """One caption; `place` names it in messages, such as ``posts.jsonl: line 3``."""

    place: str
    id: int | str
    caption: Caption


@dataclass
class CaptionFile:
    """The rows of a file, or of standard input, in order; it is read once.

    Attributes:
        file: its path; None is standard input.
        form: how it holds captions.
        column: the column of Parquet, or key of JSON objects, that holds captions; None takes ``caption`` or ``tags``.
        id_column: that of the ids; None takes ``id`` if there is one, and else numbers the rows from 0.
        unused: the columns or keys that are not read.
        num_blank: blank lines between JSON lines, which are no rows.
        share: how much was read so far, 0 to 1; None if that is not known.
    """

    file: Path | None
    form: InputFormat
    column: str | None = None
    id_column: str | None = None
    unused: dict[str, None] = field(default_factory=dict)
    num_blank: int = 0
    share: float | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return STDIN if self.file is None else str(self.file)

    def __iter__(self) -> Iterator[Row]:
        """The rows.

        Raises:
            CaptionFileError: see there.
            DiskError: the file cannot be read to its end.
        """
        with nullcontext() if self.file is None else disk_errors(self.file):
            yield from self._rows()

    def _rows(self) -> Iterator[Row]:
        if self.form is InputFormat.PARQUET:
            found = _parquet_rows(self)
        elif self.form is InputFormat.JSONL:
            found = _json_rows(self)
        else:
            found = ((f"line {number}", None, text) for number, text in _lines(self))
        kind: type | None = None
        for position, (where, row_id, caption) in enumerate(found):
            place = f"{self.name}: {where}"
            own = position if row_id is None else _checked_id(row_id, place)
            if kind is not None and type(own) is not kind:
                raise CaptionFileError(
                    f"{place}: the id is {_shown(own)}, but those before are {'text' if kind is str else 'numbers'}; "
                    "write all of them as text, or leave the ids out"
                )
            kind = type(own)
            yield Row(place, own, caption)


def format_of(file: Path | None, form: InputFormat | None = None) -> InputFormat:
    """How `file` (None: standard input) holds captions: as `form` says, or by its suffix; standard input is text.

    Raises:
        CaptionFileError: the suffix does not tell, or Parquet is to come from standard input.
    """
    if file is None:
        if form is InputFormat.PARQUET:
            raise CaptionFileError(f"{STDIN}: Parquet cannot be read from it; name the file with --file")
        return form or InputFormat.TEXT
    if form is not None:
        return form
    name = file.with_suffix("") if file.suffix.lower() in _COMPRESSED else file
    told = _SUFFIXES.get(name.suffix.lower())
    if told is None or (told is InputFormat.PARQUET and name is not file):
        raise CaptionFileError(
            f"{file}: the suffix does not tell how it holds captions; say so with --input-format "
            f"{', '.join(InputFormat)}, or name a file of {', '.join(_SUFFIXES)}"
        )
    return told


def _checked_id(value: Any, place: str) -> int | str:
    if isinstance(value, str) or (
        isinstance(value, int) and not isinstance(value, bool) and -_MAX_ID <= value < _MAX_ID
    ):
        return value
    raise CaptionFileError(
        f"{place}: the id is {_shown(value)}; ids are text or whole numbers of 64 bits: write it so, or name another "
        "--id-column"
    )


def _lines(source: CaptionFile) -> Iterator[tuple[int, str]]:
    """The lines with their numbers from 1, without their ends."""
    if source.file is None:
        yield from _decoded(source, sys.stdin.buffer)
        return
    with closing(_opened(source.file)) as stream:
        size = source.file.stat().st_size if source.file.suffix.lower() not in _COMPRESSED else 0
        for number, text in _decoded(source, stream):
            if size:
                source.share = min(1.0, stream.tell() / size)
            yield number, text


def _opened(file: Path) -> IO[bytes]:
    if file.is_dir():
        raise CaptionFileError(f"{file}: is a folder; name a file with captions")
    if file.suffix.lower() not in _COMPRESSED:
        return file.open("rb")
    from booru_embed_core.posts.readers.compression import open_stream

    return open_stream(file)


def _decoded(source: CaptionFile, stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    number = 0
    while line := stream.readline(_MAX_LINE_BYTES + 1):
        number += 1
        place = f"{source.name}: line {number}"
        if len(line) > _MAX_LINE_BYTES:
            raise CaptionFileError(f"{place}: is longer than {_MAX_LINE_BYTES:,} bytes; write one caption a line")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise CaptionFileError(
                f"{place}: byte {error.start + 1} ({line[error.start]:#04x}) is no UTF-8; convert the file to UTF-8"
            ) from None
        yield number, text.removesuffix("\n").removesuffix("\r")


def _json_rows(source: CaptionFile) -> Iterator[tuple[str, Any, Caption]]:
    for number, text in _lines(source):
        if not text.strip():
            source.num_blank += 1
            continue
        where = f"line {number}"
        place = f"{source.name}: {where}"
        try:
            value = json.loads(text, object_pairs_hook=_unique)
            if "\\u" in text:  # half a pair of surrogates is no text, and no file can hold it
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            reason = "is nested too deeply" if isinstance(error, RecursionError) else first_line(error, 80)
            raise CaptionFileError(
                f"{place}: {shown(text)} is no JSON value ({reason}); write one value a line, or say --input-format "
                "text"
            ) from None
        row_id, caption = _fields(source, value, place)
        yield where, row_id, caption


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return found


def _fields(source: CaptionFile, value: Any, place: str) -> tuple[Any, Caption]:
    """The id (None without one) and the caption of a JSON value."""
    if not isinstance(value, dict):
        if source.id_column is not None:
            raise CaptionFileError(f"{place}: {_shown(value)} has no key {source.id_column!r}; leave --id-column out")
        return None, _caption(value, place)
    others = dict(value)
    id_column = _ID if source.id_column is None else source.id_column
    if source.id_column is not None and id_column not in others:
        raise CaptionFileError(f"{place}: no key {id_column!r} for the id; it has {_names(value)}: add it everywhere")
    row_id = others.pop(id_column, None)
    if row_id is None and id_column in value:
        raise CaptionFileError(f"{place}: the id is null; write one, or name another --id-column")
    column = _caption_key(source, others, place)
    if column is None:
        return row_id, _caption(others, place)
    source.unused.update(dict.fromkeys(name for name in others if name != column))
    return row_id, _caption(others[column], place)


def _caption_key(source: CaptionFile, others: Mapping[str, Any], place: str) -> str | None:
    """The key of the caption in an object; None where the object itself is one, of tags with weights."""
    if source.column is not None:
        if source.column not in others:
            raise CaptionFileError(f"{place}: no key {source.column!r}; name one of {_names(others)} with --column")
        return source.column
    found = [name for name in _COLUMNS if name in others and not _is_number(others[name])]
    if len(found) > 1:
        raise CaptionFileError(f"{place}: has both {' and '.join(found)}; name one with --column")
    if found:
        return found[0]
    if all(_is_number(weight) for weight in others.values()):
        return None
    raise CaptionFileError(f"{place}: no key {' or '.join(_COLUMNS)}; it has {_names(others)}: name one with --column")


def _caption(value: Any, place: str) -> Caption:
    """`value` as a caption; which tags and weights are valid is for the embedder to say."""
    if isinstance(value, str | list):
        return value
    if isinstance(value, dict):
        return value
    remedy = "give text, a list of tags, or an object of tags and weights"
    if value is None:
        remedy = 'write "" for the empty caption, or leave the row out'
    raise CaptionFileError(f"{place}: {_shown(value)} is no caption; {remedy}")


def _parquet_rows(source: CaptionFile) -> Iterator[tuple[str, Any, Caption]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert source.file is not None
    if source.file.is_dir():
        raise CaptionFileError(f"{source.file}: is a folder; name a Parquet file in it")
    try:
        with pq.ParquetFile(source.file) as opened:
            column, id_column = _columns(source, opened.schema_arrow)
            is_map = pa.types.is_map(opened.schema_arrow.field(column).type)
            num_rows, number = opened.metadata.num_rows, 0
            for batch in opened.iter_batches(1024, columns=[column, *([id_column] if id_column else [])]):
                ids = batch.column(id_column).to_pylist() if id_column else [None] * len(batch)
                for row_id, value in zip(ids, batch.column(column).to_pylist(), strict=True):
                    number += 1
                    place = f"{source.file}: row {number}"
                    if id_column and row_id is None:
                        raise CaptionFileError(f"{place}: the id is null; write one, or name another --id-column")
                    source.share = number / num_rows
                    yield f"row {number}", row_id, _caption(_mapping(value, place) if is_map else value, place)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise CaptionFileError(
            f"{source.file}: cannot be read as Parquet ({first_line(error, 160)}); write it again, or say what it is "
            "with --input-format"
        ) from None


def _mapping(pairs: list[tuple[str, Any]] | None, place: str) -> dict[str, Any] | None:
    if pairs is None:
        return None
    try:
        return _unique(pairs)
    except ValueError as error:
        raise CaptionFileError(f"{place}: {error}; give each tag one weight") from None


def _columns(source: CaptionFile, schema: pa.Schema) -> tuple[str, str | None]:
    """The columns of the captions and of the ids; None where rows are numbered."""
    fitting = [name for name, one in zip(schema.names, schema.types, strict=True) if _holds_captions(one)]
    column = source.column or _fitting_column(source, [name for name in fitting if name != (source.id_column or _ID)])
    id_column = source.id_column or (_ID if _ID in schema.names and column != _ID else None)
    for name in filter(None, (column, id_column)):
        if schema.names.count(name) != 1:
            option = "--column" if name == column else "--id-column"
            raise CaptionFileError(
                f"{source.file}: {schema.names.count(name) or 'no'} columns {name!r}; name another of "
                f"{_names(schema.names)} with {option}"
            )
    if column not in fitting:
        raise CaptionFileError(
            f"{source.file}: column {column} is {schema.field(column).type}, not text, lists of text or maps of text "
            "to numbers; name another with --column"
        )
    source.unused.update(dict.fromkeys(name for name in schema.names if name not in (column, id_column)))
    return column, id_column


def _fitting_column(source: CaptionFile, fitting: list[str]) -> str:
    named = [name for name in _COLUMNS if name in fitting] or fitting
    if len(named) != 1:
        found = f"captions may be in {_names(named)}" if named else "no column is text, lists or maps of text"
        raise CaptionFileError(f"{source.file}: {found}; name one with --column")
    return named[0]


def _holds_captions(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_map(kind):
        return _is_text(kind.key_type) and (types.is_floating(kind.item_type) or types.is_integer(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_text(kind.value_type)
    return _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    own = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(own) or types.is_large_string(own) or types.is_string_view(own))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _names(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"


def _shown(value: Any) -> str:
    """`value` as JSON writes it, if it is no text, list or object."""
    return shown(value) if isinstance(value, str | list | dict) else shortened(json.dumps(value, default=str))
