"""JSON lines as Danbooru dumps its posts: one object a line, plain, gzip or zstd, further keys ignored.

Lines are found from the bytes. DuckDB parses each line by itself, so a broken one costs no other record. The keys of
the first object are the columns, except for flags: many writers leave out those that are false.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.database import quoted
from booru_embed_core.posts.readers.base import ExportPath, fit_values, run_on
from booru_embed_core.posts.readers.lines import (
    BOM,
    concatenated,
    is_utf8,
    line_numbers,
    raw_lines,
    select_lines,
    whole_lines,
)
from booru_embed_core.posts.validation import (
    MAX_LINE_BYTES,
    ExportError,
    check_columns,
    decoded,
    has_all_tags,
    values_problem,
)
from booru_embed_core.schema import ALL_TAGS_COLUMN, FLAG_COLUMNS, POST_COLUMNS, TAG_COLUMNS

_NUM_TRIED_LINES: Final = 100
_FIELDS: Final = (*TAG_COLUMNS, ALL_TAGS_COLUMN)


class JsonLinesReader:
    """A file of JSON lines; see `Reader`.

    Raises:
        ExportError: no object among the first lines, or the first one lacks a column.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl", ".ndjson")

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        self._path = path
        self._conventions = conventions
        self._columns = _columns(path, conventions)
        self._num_lines = 0
        self._blank: list[NDArray[np.int64]] = []
        self.num_records = 0
        self.malformed = concatenated([])

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`."""
        return candidate.start.lstrip().startswith(b"{")

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Reader`."""
        query = _query(self._columns, self._conventions)
        for block in whole_lines(self._path):
            lines = self._records(block.removeprefix(BOM) if not self._num_lines else block)
            yield from run_on(connection, query, pa.table({"line": lines}), self._path)

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return line_numbers(record, concatenated(self._blank), first_line=1)

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`."""
        for number, raw in select_lines(self._path, lines):
            yield number, raw, _problem(raw, self._columns, self._conventions)

    def _records(self, block: bytes) -> pa.Array[Any]:
        """The lines of `block` that are not blank; one that is no text becomes empty, which is no JSON either."""
        data = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(data == ord("\n")) + 1
        starts = np.concatenate([[0], ends[:-1]])
        lengths = ends - starts
        blank = (lengths == 1) | ((lengths == 2) & (data[starts] == ord("\r")))
        self._blank.append(np.flatnonzero(blank) + self._num_lines + 1)
        self._num_lines += len(ends)
        self.num_records += len(ends) - int(blank.sum())
        if blank.any() or lengths.max(initial=0) > MAX_LINE_BYTES or not is_utf8(block):
            spans = zip(starts[~blank].tolist(), ends[~blank].tolist(), strict=True)
            texts = [block[start:end] for start, end in spans]
            texts = [text if len(text) <= MAX_LINE_BYTES + 2 and is_utf8(text) else b"" for text in texts]
            return pa.array(texts, pa.binary()).cast(pa.string())
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets.tobytes()), pa.py_buffer(block))


def _columns(file: Path, conventions: Conventions) -> tuple[str, ...]:
    for _, raw in zip(range(_NUM_TRIED_LINES), raw_lines(file), strict=False):
        record = _parsed(raw)
        if isinstance(record, dict):
            found = check_columns(tuple(record), file, conventions, optional=FLAG_COLUMNS)
            wanted = (*POST_COLUMNS, *((ALL_TAGS_COLUMN,) if has_all_tags(found) else ()))
            # A key of a flag's name is none where the settings give it to another column.
            others = {source for name, source in conventions.columns.items() if name not in FLAG_COLUMNS}
            flags = (name for name in FLAG_COLUMNS if conventions.source(name) not in others)
            return (*(name for name in wanted if name in found), *flags)
    raise ExportError(
        f"{file}: no JSON object among the first {_NUM_TRIED_LINES} lines; wanted one a line, with the keys "
        + ",".join(map(conventions.source, POST_COLUMNS))
    )


def _query(columns: Sequence[str], conventions: Conventions) -> str:
    """The query of the batches; ``json_extract`` parses a line once for a list of paths."""
    paths = ", ".join(quoted(f'$."{conventions.source(name)}"') for name in columns)

    def text_of(name: str) -> str:
        value = f"v[{columns.index(name) + 1}]"
        # `->>` alone would give a list of tags as JSON text.
        return (
            f"(case when json_type({value}) = 'VARCHAR' then {value}->>'$' end)"
            if name in _FIELDS
            else f"({value}->>'$')"
        )

    objects = "case when json_valid(line) then line end"
    extracted = f"select json_extract({objects}, [{paths}]) as v from records"  # noqa: S608
    return f"select {fit_values(text_of, columns, conventions)} from ({extracted})"  # noqa: S608


def _parsed(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _problem(raw: bytes, columns: Sequence[str], conventions: Conventions) -> str | None:
    problem, text = decoded(raw)
    if problem:
        return problem
    try:
        record = json.loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    except RecursionError:
        return "not JSON that can be read: nested too deeply"
    if not isinstance(record, dict):
        return "not a JSON object"
    values = {name: record.get(conventions.source(name)) for name in columns}
    listed = next((name for name in _FIELDS if not isinstance(values.get(name, ""), str | None)), None)
    if listed:
        return f"{listed} is not a string: {json.dumps(values[listed])[:40]}"
    return values_problem({name: _text(value) for name, value in values.items()}, conventions)


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
