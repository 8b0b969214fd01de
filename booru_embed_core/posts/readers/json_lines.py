"""JSON lines as Danbooru dumps its posts: one object a line, plain or compressed, further keys ignored.

Lines are found from the bytes. DuckDB parses each line by itself, so a broken one costs no other record. Where the
values stand is up to ``json_layout.py``.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import duckdb
import ijson
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.base import ExportPath, run_on
from booru_embed_core.posts.readers.json_layout import BROKEN_JSON, SAMPLE_OBJECTS, JsonLayout
from booru_embed_core.posts.readers.lines import (
    BOM,
    concatenated,
    is_utf8,
    line_numbers,
    raw_lines,
    select_lines,
    whole_lines,
)
from booru_embed_core.posts.validation import MAX_LINE_BYTES, ExportError, decoded
from booru_embed_core.schema import POST_COLUMNS

_NUM_TRIED_LINES: Final = 100
_SURROGATE: Final = re.compile(rb"(\\+)u([dD][89a-fA-F][0-9a-fA-F]{2})(?:\\u([dD][c-fC-F][0-9a-fA-F]{2}))?")


class JsonLinesReader:
    """A file of JSON lines; see `Reader`.

    Raises:
        ExportError: no object among the first lines, or the first ones lack a column.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl", ".ndjson")

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        self._path = path
        objects = _first_objects(path)
        if not objects:
            raise ExportError(
                f"{path}: no JSON object among the first {_NUM_TRIED_LINES} lines; wanted one a line, with the keys "
                + ",".join(map(conventions.source, POST_COLUMNS))
            )
        self.layout = JsonLayout.of(objects, path, conventions)
        self._num_lines = 0
        self._blank: list[NDArray[np.int64]] = []
        self.num_records = 0
        self.malformed = concatenated([])

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`; a text of one object or of an array is another format."""
        return candidate.start.lstrip().startswith(b"{") and _is_lines(candidate)

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Reader`."""
        query = self.layout.query
        for block in whole_lines(self._path):
            lines = self._records(block.removeprefix(BOM) if not self._num_lines else block)
            yield from run_on(connection, query, pa.table({"line": lines}), self._path)

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return line_numbers(record, concatenated(self._blank), first_line=1)

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`."""
        for number, raw in select_lines(self._path, lines):
            yield number, raw, _problem(raw, self.layout)

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
        has_half = _has_half(block)
        if blank.any() or has_half or lengths.max(initial=0) > MAX_LINE_BYTES or not is_utf8(block):
            spans = zip(starts[~blank].tolist(), ends[~blank].tolist(), strict=True)
            texts = [block[start:end] for start, end in spans]
            if has_half:
                texts = [_whole_pairs(text, self.layout) if _has_half(text) else text for text in texts]
            texts = [text if len(text) <= MAX_LINE_BYTES + 2 and is_utf8(text) else b"" for text in texts]
            return pa.array(texts, pa.binary()).cast(pa.string())
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets.tobytes()), pa.py_buffer(block))


def _first_objects(path: Path) -> list[dict[str, Any]]:
    """The first `SAMPLE_OBJECTS` objects of a file, or fewer; none if the first lines hold none."""
    objects: list[dict[str, Any]] = []
    for number, raw in enumerate(raw_lines(path)):
        if len(objects) == SAMPLE_OBJECTS or (number >= _NUM_TRIED_LINES and not objects):
            break
        record = _parsed(raw)
        if isinstance(record, dict):
            objects.append(record)
    return objects


def _is_lines(candidate: ExportPath) -> bool:
    """Whether the first line is an object by itself and no wrapper around posts, or the file is no JSON as a whole."""
    first = next((raw for raw in raw_lines(candidate.path) if raw.strip()), b"")
    record = _parsed(first)
    if isinstance(record, dict):
        has_posts = record and all(isinstance(one, dict) and is_post(key, one) for key, one in record.items())
        return not has_posts and wrapped_key(record) is None
    try:
        for _ in ijson.basic_parse(io.BytesIO(candidate.start), multiple_values=True):
            pass
    except BROKEN_JSON as error:  # only the message tells text that is cut from text that is no JSON
        return not any(word in str(error).lower() for word in ("premature", "incomplete"))
    return False


def wrapped_key(record: dict[str, Any]) -> str | None:
    """The key of `record`, the answer of an API, under which it has a list of posts; None where it is a post."""
    if "id" in record:
        return None
    lists = {key: value for key, value in record.items() if isinstance(value, list) and value}
    return next((key for key, value in lists.items() if all(isinstance(one, dict) for one in value)), None)


def is_post(key: str, keys: Collection[str]) -> bool:
    """Whether the object at `key` of another one, with these `keys`, is a post: it has an id, or the key is one."""
    return "rating" in keys and ("id" in keys or key.isdecimal())


def _parsed(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _problem(raw: bytes, layout: JsonLayout) -> str | None:
    problem, text = decoded(raw)
    if problem:
        return problem
    try:
        record = json.loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    except RecursionError:
        return "not JSON that can be read: nested too deeply"
    if _has_half(raw) and _whole_pairs(raw, layout) == b"":
        return "half of a surrogate pair in a value that is read"
    return layout.problem(record)


def _has_half(text: bytes) -> bool:
    """Whether `text` escapes half of a surrogate pair, as text that was cut does: DuckDB takes none."""
    # Most texts hold no such escape at all, and looking for it is far faster than the pattern.
    if b"\\ud" not in text and b"\\uD" not in text:
        return False
    for match in _SURROGATE.finditer(text):
        is_escape, is_high = len(match[1]) % 2 == 1, match[2][1:2] in b"89abAB"
        if is_escape and not (is_high and match[3]):
            return True
    return False


def _whole_pairs(line: bytes, layout: JsonLayout) -> bytes:
    """`line` with the keys that are read, if half a surrogate pair is in another one; else nothing."""
    record = _parsed(line)
    if not isinstance(record, dict):
        return line
    try:
        return layout.line(record).encode() + b"\n"
    except UnicodeEncodeError:
        return b""
