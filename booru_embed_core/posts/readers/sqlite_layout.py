"""Where the posts and their tags are in an SQLite database, whose tables any program may have made.

Tags are columns of the table of posts, or rows of a relation of posts and tags. In a column they are text, or ids of a
table of tags written as ``$1f#$2a#`` in base 36, as danbooru2023-metadata-database has them.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.validation import ColumnsError, ExportError, check_columns, has_all_tags
from booru_embed_core.schema import ALL_TAGS_COLUMN, CATEGORIES, FLAG_COLUMNS, POST_COLUMNS, TAG_COLUMNS, Category

CODED_TAGS: Final = re.compile(r"(?:\$[0-9A-Za-z]+#)*")
_CODED_COLUMNS: Final = {f"tag_list_{category}": f"tag_string_{category}" for category in CATEGORIES}
_TAG_NAME_COLUMNS: Final = ("name", "tag", "tag_name", "tag_string", "value")
_TAG_CATEGORY_COLUMNS: Final = ("category", "type", "category_id", "type_id", "kind")
_TAG_KEYS: Final = ("tag_id", "tags_id", "tagid", "id_tag", "tag", "tag_name", "name")
_NAME_KEYS: Final = ("tag_name", "name")
_MAX_RELATION_COLUMNS: Final = 6
_NO_RELATIONS: Final = ("history", "version", "change", "vote", "log")
_HYDRUS_TABLES: Final = ({"subtags", "namespaces"}, {"json_dumps", "services"}, {"current_mappings"})


@dataclass(frozen=True)
class Table:
    """A table or view: its columns, those of its primary key, and whether its rows have an order."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    has_rowid: bool

    def find(self, names: Iterable[str]) -> str | None:
        """The first column that has one of `names`, whatever its case."""
        by_name = {column.lower(): column for column in self.columns}
        return next((by_name[name] for name in names if name in by_name), None)


@dataclass(frozen=True)
class TagTable:
    """The table of tags."""

    table: Table
    id: str
    name: str
    category: str | None


@dataclass(frozen=True)
class Relation:
    """The table of the tags of each post: columns with the post's id, and with the tag's id or name."""

    table: Table
    post: str
    tag: str
    is_name: bool


@dataclass(frozen=True)
class SqliteLayout:
    """Where the posts are.

    Attributes:
        posts: their table.
        columns: its column by the canonical one.
        tags: the table of tags, where posts have ids of tags.
        relation: the tags of each post, where they are not in `columns`.
    """

    posts: Table
    columns: dict[str, str]
    tags: TagTable | None = None
    relation: Relation | None = None

    @property
    def tag_columns(self) -> tuple[str, ...]:
        """The canonical columns of tags."""
        if self.relation is not None:
            return TAG_COLUMNS if self.tags is not None and self.tags.category else (ALL_TAGS_COLUMN,)
        return tuple(name for name in (*TAG_COLUMNS, ALL_TAGS_COLUMN) if name in self.columns)

    def shown(self) -> dict[str, str]:
        """The database's name of each canonical column."""
        if self.relation is None:
            return dict(self.columns)
        return {**self.columns, **dict.fromkeys(self.tag_columns, f"{self.relation.table.name}.{self.relation.tag}")}

    @property
    def has_codes(self) -> bool:
        """Whether columns hold ids of tags."""
        return self.tags is not None and self.relation is None

    @property
    def query(self) -> str:
        """The query of the posts, in the order of their rows, or by id where the tags follow in that order."""
        names = ", ".join(map(identifier, self.columns.values()))
        order = ["rowid"] if self.posts.has_rowid else [*map(identifier, self.posts.key)]
        if self.relation is not None:
            order = [identifier(self.columns["id"])]
        by = f" order by {', '.join(order)}" if order else ""
        return f"select {names} from {identifier(self.posts.name)}{by}"  # noqa: S608

    @property
    def relation_query(self) -> str:
        """The query of the relation by post."""
        assert self.relation is not None
        post, tag = identifier(self.relation.post), identifier(self.relation.tag)
        return f"select {post}, {tag} from {identifier(self.relation.table.name)} order by {post}, {tag}"  # noqa: S608


def identifier(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def find_layout(connection: sqlite3.Connection, file: Path, conventions: Conventions) -> SqliteLayout:
    """The layout of the database `file`.

    Raises:
        ExportError: no table has the columns of posts, or several have.
    """
    tables = _tables(connection)
    names = {re.sub(r"_\d+$", "", table.name.lower()) for table in tables}
    if any(wanted <= names for wanted in _HYDRUS_TABLES):
        raise ColumnsError(
            f"{file}: is a database of Hydrus, which keeps posts in several files; export the files with sidecars of "
            "their tags from Hydrus and name that folder"
        )
    if conventions.table is not None:
        chosen = [table for table in tables if table.name == conventions.table]
        if not chosen:
            raise ExportError(f"{file}: has no table {conventions.table!r}, but {_listed(tables)}; set [posts] table")
        return _layout(connection, chosen[0], tables, file, conventions)
    found: list[SqliteLayout] = []
    problems: list[ColumnsError] = []
    for table in tables:
        try:
            found.append(_layout(connection, table, tables, file, conventions))
        except ColumnsError as error:
            problems.append(error)
    if len(found) > 1:
        candidates = [layout.posts for layout in found]
        raise ExportError(f"{file}: several tables hold posts, {_listed(candidates)}; name one in [posts] table")
    if not found:
        nearest = min(problems, key=lambda error: len(error.missing), default=None)
        if nearest is None or not nearest.holds_posts:
            raise ColumnsError(f"{file}: no table holds posts, found {_listed(tables)}; name one in [posts] table")
        raise nearest
    return found[0]


def _tables(connection: sqlite3.Connection) -> list[Table]:
    query = "select name from sqlite_master where type in ('table', 'view') and name not like 'sqlite^_%' escape '^'"
    tables = []
    for (name,) in connection.execute(query + " order by name").fetchall():
        try:
            info = connection.execute(f"pragma table_info({identifier(name)})").fetchall()
        except sqlite3.OperationalError:  # a virtual table of a module that is not here
            continue
        keys = sorted((position, column) for _, column, _, _, _, position in info if position)
        columns = tuple(column for _, column, *_ in info)
        tables.append(Table(name, columns, tuple(column for _, column in keys), _has_rowid(connection, name)))
    return tables


def _has_rowid(connection: sqlite3.Connection, name: str) -> bool:
    try:
        connection.execute(f"select rowid from {identifier(name)} limit 0")  # noqa: S608
    except sqlite3.OperationalError:
        return False
    return True


def _layout(
    connection: sqlite3.Connection, posts: Table, tables: Sequence[Table], file: Path, conventions: Conventions
) -> SqliteLayout:
    shown = Path(f"{file}: table {posts.name}")
    has_own = any(conventions.source(name) in posts.columns for name in (*TAG_COLUMNS, ALL_TAGS_COLUMN))
    known = {} if has_own else _CODED_COLUMNS
    found = tuple(known.get(column, column) for column in posts.columns)
    spelled = dict(zip(conventions.canonical(found), posts.columns, strict=True))
    relation = None if any(name in spelled for name in TAG_COLUMNS) else _relation(connection, posts, tables)
    if relation is not None and "id" in spelled:
        table = _tag_table(tables, posts)
        # A relation without categories, or one that is not used, tells no more than a column of all tags.
        has_more = table is not None and table.category is not None and not _is_empty(connection, relation.table)
        if ALL_TAGS_COLUMN not in spelled or has_more:
            return _of_relation(relation, table, posts, shown, conventions)
    canonical = check_columns(found, shown, conventions)
    tags = (ALL_TAGS_COLUMN,) if has_all_tags(canonical) else TAG_COLUMNS
    layout = SqliteLayout(posts, _wanted(spelled, tags))
    if not any(_holds_codes(connection, posts, column) for name, column in layout.columns.items() if name in tags):
        return layout
    if (table := _tag_table(tables, posts)) is None:
        raise ExportError(f"{shown}: has ids of tags as $1f#, but no table of tags with id and name is in the database")
    return SqliteLayout(posts, layout.columns, tags=table)


def _of_relation(
    relation: Relation, tags: TagTable | None, posts: Table, shown: Path, conventions: Conventions
) -> SqliteLayout:
    # Tags of the relation stand in for a column of them.
    own = [column for column in posts.columns if conventions.canonical([column])[0] != ALL_TAGS_COLUMN]
    check_columns([*own, conventions.source(ALL_TAGS_COLUMN)], shown, conventions)
    if tags is None and not relation.is_name:
        raise ColumnsError(f"{shown}: {relation.table.name} has ids of tags, but no table has their names", own)
    if len(posts.key) > 1:
        raise ExportError(
            f"{shown}: ids count only within {', '.join(posts.key)}; make a view of the posts of one site and name it "
            "in [posts] table"
        )
    spelled = dict(zip(conventions.canonical(own), own, strict=True))
    return SqliteLayout(posts, _wanted(spelled, ()), tags, relation)


def _wanted(spelled: dict[str, str], tags: Collection[str]) -> dict[str, str]:
    wanted = [*(name for name in POST_COLUMNS if name not in TAG_COLUMNS), *tags, *FLAG_COLUMNS]
    return {name: spelled[name] for name in wanted if name in spelled}


def _relation(connection: sqlite3.Connection, posts: Table, tables: Sequence[Table]) -> Relation | None:
    """The relation of `posts` and tags, if there is one: of several the one with the fewest other columns."""
    own = posts.name.lower()
    keys = (f"{own}_id", f"{own.removesuffix('s')}_id", f"{own}id", "post_id", "image_id", "postid", "post", own)
    found = []
    for table in tables:
        post, tag = table.find(keys), table.find(_TAG_KEYS)
        is_of_tags = tag is not None and any("tag" in name.lower() for name in (tag, table.name))
        is_log = any(word in table.name.lower() for word in _NO_RELATIONS)
        if post and tag and post != tag and is_of_tags and not is_log and len(table.columns) <= _MAX_RELATION_COLUMNS:
            first = connection.execute(f"select {identifier(tag)} from {identifier(table.name)} limit 1")  # noqa: S608
            is_name = tag.lower() in _NAME_KEYS or isinstance((first.fetchone() or (None,))[0], str)
            found.append(Relation(table, post, tag, is_name))
    return min(found, key=lambda one: (len(one.table.columns), one.table.name), default=None)


def _is_empty(connection: sqlite3.Connection, table: Table) -> bool:
    return connection.execute(f"select 1 from {identifier(table.name)} limit 1").fetchone() is None  # noqa: S608


def _tag_table(tables: Sequence[Table], posts: Table) -> TagTable | None:
    """The table of tags: with an id and a name, and perhaps a category; of several the one with ``tag`` in its name."""
    found = []
    for table in tables:
        id_, name = table.find(("id", "tag_id")), table.find(_TAG_NAME_COLUMNS)
        category = table.find(_TAG_CATEGORY_COLUMNS)
        if id_ and name and table != posts and "tag" in table.name.lower():
            found.append(TagTable(table, id_, name, category))
    return min(found, key=lambda one: (one.category is None, len(one.table.name), one.table.name), default=None)


def _holds_codes(connection: sqlite3.Connection, table: Table, column: str) -> bool:
    """Whether the first value of `column` that is not empty is a list of ids."""
    name = identifier(column)
    query = f"select {name} from {identifier(table.name)} where {name} <> '' limit 1"  # noqa: S608
    first = connection.execute(query).fetchone()
    return first is not None and isinstance(first[0], str) and CODED_TAGS.fullmatch(first[0]) is not None


def _listed(tables: Sequence[Table]) -> str:
    return ", ".join(table.name for table in tables[:20]) or "none"


def category_index(word: str | None, known: dict[str, Category]) -> int | None:
    """The index of the category that `word` stands for; None for an unknown one."""
    category = known.get(word or "")
    return None if category is None else CATEGORIES.index(category)
