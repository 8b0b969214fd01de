"""SQLite databases, as booru programs and metadata sets have them: read only, and nothing is written beside them.

A "line" is the row's ordinal, from 1: by rowid, or by id where tags are in a table of their own. Memory holds 8,192
posts and the table of tags, about 200 bytes a tag. SQLite sorts on disk where the tags have no index by post.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.errors import first_line
from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.base import ExportPath, fit_values, run_on
from booru_embed_core.posts.readers.lines import concatenated
from booru_embed_core.posts.readers.sqlite_layout import CODED_TAGS, category_index, find_layout, identifier
from booru_embed_core.posts.tag_fields import INVALID_TAGS, RawValue
from booru_embed_core.posts.validation import ColumnsError, ExportError, values_problem
from booru_embed_core.schema import POST_COLUMNS, RATINGS

MAGIC: Final = b"SQLite format 3\0"
_BATCH_ROWS: Final = 8192
_WAL: Final = 2
_WAIT_SECONDS: Final = 5.0
_IS_LOCKED: Final = ("SQLITE_BUSY", "SQLITE_LOCKED")


class SqliteReader:
    """A table of posts in an SQLite database; see `Reader`.

    Raises:
        ExportError: it is damaged, locked or encrypted, or no table or several hold posts.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".sqlite", ".sqlite3", ".db")

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        self._path = path
        if not ExportPath(path).start.startswith(MAGIC):
            raise ColumnsError(
                f"{path}: is encrypted or no SQLite database; export its posts as CSV or JSON with the program it is of"
            )
        with self._connected() as connection:
            connection.text_factory = _name
            self.layout = find_layout(connection, path, conventions)
        if self.layout.has_codes:
            numbers = {str(number): rating for number, rating in enumerate(RATINGS)}
            conventions = replace(conventions, ratings={**numbers, **conventions.ratings})
        self._conventions = conventions
        self.num_records = 0
        self.malformed = concatenated([])

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`; a file of no known kind is opened by its suffix, since encrypted ones have no sign."""
        start = candidate.start
        return start.startswith(MAGIC) or (b"\0" in start and candidate.path.suffix.lower() in cls.suffixes)

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Reader`."""
        columns = (*self.layout.columns, *self.layout.tag_columns)
        query = f"select {fit_values(identifier, columns, self._conventions)} from records"  # noqa: S608
        with self._connected() as database:
            count = f"select count(*) from {identifier(self.layout.posts.name)}"  # noqa: S608
            self.num_records = int(database.execute(count).fetchone()[0])
            num_rows = 0
            for posts in self._posts(database):
                num_rows += len(posts)
                yield from run_on(connection, query, self._table(posts), self._path)
        if num_rows != self.num_records:
            raise self._damaged(f"{self.num_records} rows are counted and {num_rows} found")

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return record + 1

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`."""
        wanted = set(lines)
        with self._connected() as database:
            posts = (post for batch in self._posts(database) for post in batch)
            for number, values in enumerate(posts if wanted else (), start=1):
                if number in wanted:
                    shown = {
                        name: value if isinstance(value, list) else _shown(value) for name, value in values.items()
                    }
                    raw = json.dumps(shown, ensure_ascii=False).encode("utf-8", "surrogatepass")
                    yield number, raw, self._problem(values)

    def _problem(self, values: Mapping[str, Any]) -> str | None:
        for name, value in values.items():
            if isinstance(value, bytes):
                return f"{name} is a blob of {len(value)} bytes, wanted text or a number"
            if isinstance(value, _UnknownTag):
                return f"{name} has the tag {value}, which is not in the table of tags"
        missing: dict[str, RawValue] = {name: None for name in POST_COLUMNS[:3] if name not in values}
        texts = {name: value if isinstance(value, list) else _shown(value) for name, value in values.items()}
        return values_problem({**missing, **texts}, self._conventions)

    def _table(self, posts: Sequence[Mapping[str, Any]]) -> pa.Table:
        columns: dict[str, pa.Array[Any]] = {}
        layout = self.layout
        for name in posts[0]:
            values = [post[name] for post in posts]
            if name in layout.tag_columns and (layout.has_codes or layout.relation is not None):
                lists = [value if isinstance(value, list) else [_field(value)] for value in values]
                columns[name] = pa.array(lists, pa.list_(pa.string()))
            else:
                as_text = _field if name in layout.tag_columns else _shown
                columns[name] = pa.array(map(as_text, values), pa.string())
        return pa.table(columns)

    def _posts(self, database: sqlite3.Connection) -> Iterator[list[dict[str, Any]]]:
        """The posts in batches, each with its values by canonical column: tags as text or a list."""
        layout = self.layout
        tags = self._tags(database) if layout.tags is not None else {}
        groups = None if layout.relation is None else _Groups(database.execute(layout.relation_query), self._path)
        rows = database.execute(layout.query)
        while batch := rows.fetchmany(_BATCH_ROWS):
            posts = [dict(zip(layout.columns, row, strict=True)) for row in batch]
            for post in posts:
                if groups is not None:
                    post.update(self._by_category(groups.of(post["id"]), tags))
                elif layout.has_codes:
                    post.update({name: _decoded(post[name], tags) for name in layout.tag_columns})
            yield posts
        if groups is not None:
            groups.check()

    def _tags(self, database: sqlite3.Connection) -> dict[Any, str]:
        """By id, or by name where the relation has names: the digit of its category, and the name."""
        tags = self.layout.tags
        assert tags is not None
        key = tags.name if self.layout.relation is not None and self.layout.relation.is_name else tags.id
        known = self._conventions.known_categories
        columns = [key, tags.name, *([tags.category] if tags.category else [])]
        query = f"select {', '.join(map(identifier, columns))} from {identifier(tags.table.name)}"  # noqa: S608
        found = {}
        for id_, name, *category in database.execute(query):
            index = category_index(_shown(category[0]), known) if category and not self.layout.has_codes else 0
            if index is None:
                word = _shown(category[0]) or ""
                raise ExportError(
                    f"{self._path}: {tags.table.name}.{tags.category} of {name!r} is {category[0]!r}, no known "
                    f'category; set [posts.category_numbers] "{word}" = "general", or another category'
                )
            found[id_] = f"{index}{name}"
        return found

    def _by_category(self, ids: Sequence[Any], tags: Mapping[Any, str]) -> dict[str, Any]:
        columns = self.layout.tag_columns
        lists: dict[str, Any] = {name: [] for name in columns}
        for id_ in ids:
            found = tags.get(id_) if self.layout.tags is not None else f"0{id_}"
            if found is None:
                return {**lists, columns[0]: _UnknownTag(id_)}
            lists[columns[int(found[0])]].append(found[1:])
        return lists

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection that reads one state of the database, and writes nothing."""
        try:
            uri = f"file:{quote(str(self._path.absolute()))}?{self._mode()}"
            with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)) as connection:
                connection.text_factory = _text
                connection.execute("pragma query_only = on")
                connection.execute("begin")
                yield connection
        except (sqlite3.Error, UnicodeDecodeError) as error:  # a message of SQLite may hold any bytes
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(_IS_LOCKED):
                raise ExportError(f"{self._path}: is locked; close the program that writes it") from None
            raise self._damaged(first_line(error)) from None

    def _mode(self) -> str:
        with self._path.open("rb") as stream:
            is_wal = stream.read(20)[18:] == bytes([_WAL, _WAL])
        wal, index, journal = (self._path.with_name(self._path.name + end) for end in ("-wal", "-shm", "-journal"))
        is_open = is_wal and wal.is_file() and wal.stat().st_size > 0
        if (is_open and not index.exists()) or (journal.is_file() and journal.stat().st_size > 0):
            raise ExportError(
                f"{self._path}: has changes in {(wal if is_open else journal).name}; close the program that writes it, "
                "or open it once with that program"
            )
        # Without changes outside of the file there is nothing to lock; SQLite would create files beside it.
        return "mode=ro&immutable=1" if is_wal and not is_open else "mode=ro"

    def _damaged(self, problem: str) -> ExportError:
        remedy = "fetch it again, or recover it with sqlite3 and .recover"
        return ExportError(f"{self._path}: the database is damaged ({problem}); {remedy}")


class _UnknownTag(str):
    """The id of a tag that is in no table."""

    __slots__ = ()


class _Groups:
    """The tags of posts that are asked for by ascending id."""

    def __init__(self, relations: Iterator[tuple[Any, Any]], path: Path) -> None:
        self._path = path
        self._groups = groupby(relations, key=lambda relation: relation[0])
        self._id: Any = None
        self._tags: list[Any] = []
        self._is_over = False
        self._num_found = 0
        self._num_others = -1
        self._advance()

    def of(self, post_id: object) -> list[Any]:
        """The tags of the post `post_id`."""
        self._check_type(post_id, "a post has the id")
        while not self._is_over and (self._id is None or self._id < post_id):
            self._advance()
        is_own = not self._is_over and self._id == post_id
        self._num_found += is_own
        return self._tags if is_own else []

    def check(self) -> None:
        """Raises where no post had any tag, although there are some."""
        if not self._num_found and (self._num_others > 0 or not self._is_over):
            raise ExportError(f"{self._path}: no post has a tag: their ids are not those of the relation with tags")

    def _advance(self) -> None:
        self._num_others += 1
        group = next(self._groups, None)
        if group is None:
            self._is_over = True
            return
        self._id, self._tags = group[0], [tag for _, tag in group[1]]
        if self._id is not None:
            self._check_type(self._id, "a tag has the post")

    def _check_type(self, value: object, where: str) -> None:
        if not isinstance(value, int):
            raise ExportError(
                f"{self._path}: {where} {str(value)[:40]!r}, no whole number, by which posts and tags are joined; make "
                "a view with numbers and name it in [posts] table"
            )


def _decoded(value: object, tags: Mapping[Any, str]) -> Any:
    """The names of tags whose ids stand in `value` as ``$1f#``."""
    if value is None:
        return []
    if not isinstance(value, str) or not CODED_TAGS.fullmatch(value):
        return value if isinstance(value, bytes) else _UnknownTag(str(value)[:40])
    names = []
    for code in value[1:-1].split("#$") if value else ():
        found = tags.get(int(code, 36))
        if found is None:
            return _UnknownTag(int(code, 36))
        names.append(found[1:])
    return names


def _name(raw: bytes) -> str:
    """The name of a table or column, or text of a definition."""
    return raw.decode(errors="backslashreplace")


def _text(raw: bytes) -> str | bytes:
    """Text of the database; bytes that are no UTF-8 stay bytes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _shown(value: object) -> str | None:
    """A value as text."""
    if value is None or isinstance(value, str):
        return value
    return f"<blob of {len(value)} bytes>" if isinstance(value, bytes) else str(value)


def _field(value: object) -> str | None:
    """A raw field of tags; what is none becomes invalid."""
    return INVALID_TAGS if isinstance(value, bytes | _UnknownTag) else _shown(value)
