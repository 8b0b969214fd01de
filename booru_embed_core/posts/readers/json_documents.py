"""JSON that is not one object a line: an array of posts, posts below a key, or objects over many lines.

The text is parsed as a stream, so memory holds one batch of posts. One that is broken somewhere cannot be read behind
that place, and is an error.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import duckdb
import ijson
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.errors import first_line
from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.base import ExportPath, run_on
from booru_embed_core.posts.readers.json_layout import BROKEN_JSON, SAMPLE_OBJECTS, JsonLayout
from booru_embed_core.posts.readers.json_lines import is_post
from booru_embed_core.posts.readers.lines import BOM, concatenated, text_blocks
from booru_embed_core.posts.validation import MAX_LINE_BYTES, ExportError

_BATCH_OBJECTS: Final = 4096
_READ_BYTES: Final = 1 << 20
_VALUES: Final = "*"
_NAN: Final = b"NaN"
_STRING_OR_NAN: Final = re.compile(rb'"(?:[^"\\]|\\.)*(?P<end>"?)|NaN', re.DOTALL)


class JsonDocumentsReader:
    """A file of JSON values that are not one a line; see `Reader`. A "line" is the ordinal of a post.

    Raises:
        ExportError: it is not JSON, holds no post, or its first posts lack a column.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        self._path = path
        self._prefix = _prefix(path)
        objects = [one for one in itertools.islice(self._objects(), SAMPLE_OBJECTS) if isinstance(one, dict)]
        if not objects:
            raise ExportError(f"{path}: holds no JSON object; wanted posts, as objects with keys")
        self.layout = JsonLayout.of(objects, path, conventions)
        self.num_records = 0
        self.malformed = concatenated([])

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`; JSON lines are looked for before."""
        return candidate.start.lstrip()[:1] in (b"{", b"[")

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Reader`."""
        query = self.layout.query
        objects = self._objects()
        while batch := list(itertools.islice(objects, _BATCH_OBJECTS)):
            self.num_records += len(batch)
            yield from run_on(connection, query, pa.table({"line": [self._line(one) for one in batch]}), self._path)

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return record + 1

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`."""
        wanted = set(lines)
        for number, record in enumerate(self._objects() if wanted else (), start=1):
            if number in wanted:
                raw = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
                yield number, raw, self.layout.problem(record)

    def _line(self, record: object) -> str:
        """The text of `record` with the keys that are read; empty, which is no JSON, where there is none."""
        if not isinstance(record, dict):
            return ""
        try:
            return self.layout.line(record)
        except UnicodeEncodeError:
            return ""

    def _objects(self) -> Iterator[Any]:
        return _items(self._path, self._prefix)


def _items(path: Path, prefix: str) -> Iterator[Any]:
    number = 0
    try:
        for number, item in enumerate(_parsed(TextStream(text_blocks(path)), prefix), start=1):  # noqa: B007
            yield item
        return
    except BROKEN_JSON as error:
        first_error = error
    # Python writes NaN where there is nothing, which is no JSON. It is looked for only where parsing stops.
    num_read = number
    try:
        items = _parsed(TextStream(_with_nulls(text_blocks(path))), prefix)
        for number, item in enumerate(items, start=1):
            if number > num_read:
                yield item
    except BROKEN_JSON:
        raise ExportError(
            f"{path}: not JSON behind its post {number} ({first_line(first_error)}); fetch the file again or correct it"
        ) from None


def _parsed(stream: TextStream, prefix: str) -> Iterator[Any]:
    if prefix == _VALUES:
        for key, value in ijson.kvitems(stream, "", use_float=True, multiple_values=True, buf_size=_READ_BYTES):
            has_id = "id" in value if isinstance(value, dict) else True
            yield value if has_id else {"id": key, **value}
        return
    yield from ijson.items(stream, prefix, use_float=True, multiple_values=True, buf_size=_READ_BYTES)


def _with_nulls(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """JSON in `blocks` with null for each NaN outside of strings."""
    pending = b""
    for block in blocks:
        text = pending + block
        pieces: list[bytes] = []
        done, keep = 0, max(0, len(text) - len(_NAN) + 1)
        for match in _STRING_OR_NAN.finditer(text):
            if match[0] != _NAN and not match["end"]:
                keep = match.start()  # the string goes on in the next block
                break
            pieces += [text[done : match.start()], b"null" if match[0] == _NAN else match[0]]
            done = match.end()
        # A string without an end in sight is no JSON, and need not be held.
        keep = max(done, keep if len(text) - keep <= MAX_LINE_BYTES else len(text))
        pieces.append(text[done:keep])
        pending = text[keep:]
        yield b"".join(pieces)
    yield pending


def _prefix(path: Path) -> str:
    """Where the posts stand, as ijson names it: ``item`` in an array, ``posts.item`` below a key, "" at the top.

    `_VALUES` stands for an object with a post at each key, such as its id. The first values decide: below a key they
    are a list of objects, and the object around them has no id.
    """
    blocks = _with_nulls(text_blocks(path))
    events = ijson.parse(TextStream(blocks), multiple_values=True, buf_size=_READ_BYTES)
    try:
        _, first, _ = next(events)
        if first == "start_array":
            return "item"
        key = ""
        inner: set[str] = set()
        for prefix, event, value in events:
            if event == "map_key" and prefix == "":
                key, inner = value, set()
            elif event == "map_key" and prefix == key:
                inner.add(value)
                if is_post(key, inner):
                    return _VALUES
            if (prefix, event, value) == ("", "map_key", "id") or (prefix, event) == ("", "end_map"):
                return ""
            if event == "start_map" and prefix.endswith(".item") and prefix.count(".") == 1:
                return str(prefix)
    except (StopIteration, *BROKEN_JSON) as error:
        raise ExportError(f"{path}: not JSON ({first_line(error)}); fetch the file again or correct it") from None
    return ""


class TextStream:
    """The text of `blocks` behind its byte order mark, for a parser that only reads."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._start = next(blocks, b"").removeprefix(BOM)

    def read(self, size: int = -1) -> bytes:
        """The next bytes, however many; none at the end."""
        if not size:
            return b""
        start, self._start = self._start, b""
        return start or next((block for block in self._blocks if block), b"")
