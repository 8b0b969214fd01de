"""SQLite databases of several programs: which table and columns are read, and that nothing beside them changes."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.readers.registry import open_reader
from booru_embed_core.posts.readers.sqlite import SqliteReader
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import TAG_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings
from tests.core.export_helpers import ONE_THREAD, read_rejects, read_rows, row

COLUMNS = ("id", "rating", "score", *TAG_COLUMNS)


def database(file: Path, script: str, **rows: Sequence[Sequence[object]]) -> Path:
    """A new database made by `script`, with these `rows` in its tables."""
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(script)
        for table, values in rows.items():
            marks = ", ".join("?" * len(values[0]))
            connection.executemany(f"insert into {table} values ({marks})", values)
        connection.commit()
    return file


def posts_table(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    return database(
        file, f"create table posts ({', '.join(COLUMNS)});", posts=[[one[name] for name in COLUMNS] for one in rows]
    )


def read(file: Path, out: Path, threads: int = 1, **settings: Any) -> PostsReport:
    out.mkdir()
    chosen = PostsSettings(export=(str(file),), **{"max_rejected_share": 0.9, **settings})
    return read_export(chosen, Path(), out, DuckdbSettings(threads=threads))


def test_a_table_of_posts_is_found_among_others(tmp_path: Path) -> None:
    rows = [row(3, "b"), row(1, "a b", artist="x", score=-4), row(2, "", rating="e")]
    flagged = [[*(one[name] for name in COLUMNS), one["id"] == 9] for one in (*rows[:2], row(9), rows[2])]
    script = f"""create table pools (id, name); create table comments (id, post_id, score, body);
        create table posts ({", ".join(COLUMNS)}, is_deleted);"""
    file = database(tmp_path / "booru.db", script, posts=flagged)
    before = (file.read_bytes(), sorted(tmp_path.iterdir()))
    report = read(file, tmp_path / "out")
    assert (report.num_read, report.num_kept, report.num_filtered) == (4, 3, 1)
    assert read_rows(tmp_path / "out") == rows
    assert (file.read_bytes(), sorted(tmp_path.iterdir())) == (before[0], sorted([*before[1], tmp_path / "out"]))


def test_values_are_read_when_exact_and_refused_by_value(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        row(1) | {"score": 39.0}, row(2) | {"score": "12"}, row(3) | {"score": 1.5}, row(4) | {"score": b"\x01\x02"},
        row(5) | {"tag_string_general": b"a b"}, row(6) | {"score": None}, row(7) | {"tag_string_artist": None},
        row(8) | {"tag_string_general": 2007}, row(9) | {"rating": 1},
    ]  # fmt: skip
    file = posts_table(tmp_path / "posts.sqlite", rows)
    read(file, tmp_path / "out")
    assert [(post["id"], post["score"], post["tag_string_general"]) for post in read_rows(tmp_path / "out")] == [
        (1, 39, "1girl"), (2, 12, "1girl"), (7, 0, "1girl"), (8, 0, "2007"),
    ]  # fmt: skip
    rejects = {reject["line"]: reject["reason"] for reject in read_rejects(tmp_path / "out")}
    assert rejects == {
        3: "score '1.5' is not a whole number from -2147483648 to 2147483647",
        4: "score is a blob of 2 bytes, wanted text or a number",
        5: "tag_string_general is a blob of 3 bytes, wanted text or a number",
        6: "score is missing; set [posts] missing_score",
        9: "rating '1' is not one of g, s, q, e; say which one it is in [posts.rating_names]",
    }
    shutil.rmtree(tmp_path / "out")
    assert read(file, tmp_path / "out", rating_names={"1": "s"}, missing_score=0).num_kept == 6


def test_text_that_is_no_utf8_costs_its_row(tmp_path: Path) -> None:
    file = posts_table(tmp_path / "posts.db", [row(1), row(2)])
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("update posts set tag_string_general = cast(x'61ff62' as text) where id = 1")
        connection.commit()
    assert read(file, tmp_path / "out").num_rejected == 1
    assert [post["id"] for post in read_rows(tmp_path / "out")] == [2]


CODED = """
create table post (id integer primary key, rating integer, score integer, is_deleted integer, md5 text, tag_list text,
  tag_list_general text, tag_list_artist text, tag_list_character text, tag_list_copyright text, tag_list_meta text,
  tag_count integer);
create table tag (id integer primary key, name text unique, type integer, popularity integer);
create table localpost (id integer primary key, filepath text, post_id integer);
create virtual table postfts using fts5(tag_list);
"""


def base36(number: int) -> str:
    digits = np.base_repr(number, 36)
    return f"${digits}#"


def test_ids_of_tags_in_base_36_become_their_names(tmp_path: Path) -> None:
    tags = [
        (7, "solo", 0, 1),
        (306675, "umamusume", 3, 1),
        (36, "x y", 1, 1),
        (40, "miku", 2, 1),
        (41, "highres", 4, 1),
    ]

    def post(post_id: int, rating: int, deleted: int, general: str) -> tuple[object, ...]:
        return (post_id, rating, 5, deleted, "", general, general, base36(36), base36(40), base36(306675), None, 3)

    posts = [
        post(2, 0, 0, base36(7)), post(1, 3, 0, ""), post(3, 1, 1, base36(7)), post(4, 1, 0, base36(99)),
        post(5, 2, 0, "solo"),
    ]  # fmt: skip
    file = database(tmp_path / "danbooru2023.db", CODED, post=posts, tag=tags)
    report = read(file, tmp_path / "out")
    assert (report.num_read, report.num_kept, report.num_filtered, report.num_rejected) == (5, 2, 1, 2)
    others = {"artist": "x_y", "character": "miku", "copyright": "umamusume", "score": 5}
    # Rows come by their primary key.
    assert read_rows(tmp_path / "out") == [row(1, "", rating="e", **others), row(2, "solo", rating="g", **others)]
    assert {reject["line"]: reject["reason"] for reject in read_rejects(tmp_path / "out")} == {
        4: "tag_string_general has the tag 99, which is not in the table of tags",
        5: "tag_string_general has the tag solo, which is not in the table of tags",
    }


RELATION = """
create table posts (id integer primary key, md5 text, rating text, score integer, is_banned boolean, tags text);
create table tags (id integer primary key, name text, category {kind}, post_count integer);
create table post_tags (tag_id integer references tags, post_id integer references posts{key});
create table tag_history (id integer primary key, post_id integer, tag_id integer, at text, user text);
"""
TAGS = [(1, "solo", 0, 9), (2, "x", 1, 9), (3, "original", 3, 9), (4, "miku", 4, 9), (5, "highres", 5, 9)]


@pytest.mark.parametrize("key", ["", ", primary key (tag_id, post_id)"])
@pytest.mark.parametrize("threads", [1, 2])
def test_tags_in_a_relation_are_joined_in_order(
    tmp_path: Path, key: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booru_embed_core.posts.readers.sqlite._BATCH_ROWS", 3)
    posts = [(n, "", "s", n, n == 4, "") for n in (8, 2, 4, 1, 9, 3)]
    pairs = [(5, 8), (1, 8), (4, 2), (1, 2), (1, 77), (1, 0), (2, 3), (3, 3), (1, 4), (None, 9)][:9]
    file = database(
        tmp_path / "a.db", RELATION.format(kind="integer", key=key), posts=posts, tags=TAGS, post_tags=pairs
    )
    report = read(file, tmp_path / "out", threads)
    assert (report.num_kept, report.num_filtered) == (5, 1)
    assert read_rows(tmp_path / "out") == [
        row(1, "", score=1), row(2, "solo", character="miku", score=2),
        row(3, "", artist="x", copyright="original", score=3),
        row(8, "solo", meta="highres", score=8), row(9, "", score=9),
    ]  # fmt: skip


def test_categories_may_be_words_and_unknown_ones_are_named(tmp_path: Path) -> None:
    categories = ("general", "artist", "copyright", "what", "meta")
    words = [(*tag[:2], category, 0) for tag, category in zip(TAGS, categories, strict=True)]
    script = RELATION.format(kind="text", key="")
    file = database(
        tmp_path / "a.db", script, posts=[(1, "", "g", 0, 0, "")], tags=words, post_tags=[(n, 1) for n in range(1, 6)]
    )
    with pytest.raises(
        ExportError, match=r"tags\.category of 'miku' is 'what', no known category; set \[posts\.category"
    ):
        read(file, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    read(file, tmp_path / "out", category_numbers={"what": "character"})
    wanted = row(1, "solo", artist="x", copyright="original", character="miku", meta="highres", rating="g")
    assert read_rows(tmp_path / "out") == [wanted]
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("update tags set category = null where name = 'miku'")
        connection.commit()
    with pytest.raises(ExportError, match=r"'miku' is None, no known category; set \[posts\.category_numbers\] \"\" ="):
        read(file, tmp_path / "out2")
    read(file, tmp_path / "out3", category_numbers={"": "character"})
    assert read_rows(tmp_path / "out3") == [wanted]


def test_other_tables_of_posts_are_no_relation_of_tags(tmp_path: Path) -> None:
    script = """create table posts (id integer primary key, rating, score, tags); create table notes (post_id, name);
        create table post_tags (post_id, tag_id); create table tags (id, name, category);
        create table tag_history (post_id, tag_id); create table favorites (post_id, user_id);
        insert into notes values (1, 'a note'); insert into tag_history values (1, 5);
        insert into tags values (5, 'not_this', 0);"""
    file = database(tmp_path / "a.db", script, posts=[(1, "g", 0, "solo"), (2, "g", 0, "miku")])
    (tmp_path / "tags.csv").write_text("tag,category\nsolo,0\nmiku,4\n", encoding="utf-8")
    read(file, tmp_path / "out", tag_categories=tmp_path / "tags.csv")
    assert read_rows(tmp_path / "out") == [row(1, "solo", rating="g"), row(2, "", character="miku", rating="g")]
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("insert into post_tags values (1, 5)")
        connection.commit()
    read(file, tmp_path / "out2")
    assert read_rows(tmp_path / "out2") == [row(1, "not_this", rating="g"), row(2, "", rating="g")]


@pytest.mark.parametrize("column", ["name", "tag", "tag_name"])
def test_names_in_a_relation_without_categories_need_the_table_of_tags(tmp_path: Path, column: str) -> None:
    tables = ("images (id integer primary key, rating, score)", f"image_tags (image_id, {column})")
    script = "".join(f"create table {table};" for table in tables)
    file = database(
        tmp_path / "a.db", script, images=[(1, "g", 0), (2, "g", 0)], image_tags=[(1, "solo"), (2, "miku"), (1, "a b")]
    )
    with pytest.raises(ExportError, match="has tag_string and none of tag_string_general"):
        read(file, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "tags.csv").write_text("tag,category\nsolo,0\na_b,1\nmiku,4\n", encoding="utf-8")
    read(file, tmp_path / "out", tag_categories=tmp_path / "tags.csv")
    assert read_rows(tmp_path / "out") == [
        row(1, "solo", artist="a_b", rating="g"),
        row(2, "", character="miku", rating="g"),
    ]


@pytest.mark.parametrize(
    ("posts", "pairs", "message"),
    [
        ([(1, "", "g", 0, 0, "")], [(1, "1")], "a tag has the post '1', no whole number, by which posts and tags are"),
        ([(1, "", "g", 0, 0, "")], [(1, 7), (2, 7)], "no post has a tag: their ids are not those of the relation"),
    ],
)
def test_tags_that_do_not_join_are_an_error(tmp_path: Path, posts: list[Any], pairs: list[Any], message: str) -> None:
    script = RELATION.format(kind="integer", key="").replace("post_id integer", "post_id")
    file = database(tmp_path / "a.db", script, posts=posts, tags=TAGS, post_tags=pairs)
    with pytest.raises(ExportError, match=message):
        read(file, tmp_path / "out")


def test_one_of_several_tables_is_named(tmp_path: Path) -> None:
    columns = ", ".join(COLUMNS)
    script = f"""create table posts ({columns}); create table old_posts ({columns});
        create view good as select * from posts where score > 0;"""
    rows = [[one[name] for name in COLUMNS] for one in (row(1), row(2, score=4))]
    file = database(tmp_path / "a.db", script, posts=rows, old_posts=rows[:1])
    with pytest.raises(
        ExportError, match=r"a\.db: several tables hold posts, good, old_posts, posts; name one in \[posts\]"
    ):
        read(file, tmp_path / "out")
    for table, ids in (("posts", [1, 2]), ("old_posts", [1]), ("good", [2])):
        read(file, tmp_path / table, table=table)
        assert [post["id"] for post in read_rows(tmp_path / table)] == ids
    with pytest.raises(ExportError, match="has no table 'others', but good, old_posts, posts; set "):
        read(file, tmp_path / "others", table="others")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("create table a (x); create table b (y);", r"no table holds posts, found a, b; name one in \[posts\] table"),
        ("create table posts (id, rating, tags);", r"a\.db: table posts: wrong columns: .* missing: score"),
        ("create table services (x); create table json_dumps (y);", "is a database of Hydrus, .* name that folder"),
        ("create table current_mappings_4 (tag_id, hash_id);", "is a database of Hydrus"),
        (
            "create table post (id, board_id, rating, score, primary key (id, board_id));"
            "create table post_tag (post_id, board_id, tag_name);",
            r"ids count only within id, board_id; make a view",
        ),
    ],
)
def test_databases_without_posts_are_refused_by_name(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        open_reader(database(tmp_path / "a.db", script))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return posts_table(tmp_path / "a.sqlite3", [row(number, f"a b t{number}") for number in range(2000)])


def test_an_encrypted_database_is_named_and_left_out_of_a_folder(tmp_path: Path, file: Path) -> None:
    secret = tmp_path / "b.db"
    secret.write_bytes(b"".join(hashlib.sha256(bytes([number])).digest() for number in range(256)))
    with pytest.raises(
        ExportError, match=r"b\.db: is encrypted or no SQLite database; export its posts as CSV or JSON"
    ):
        open_reader(secret)
    (tmp_path / "out").mkdir()
    report = read_export(PostsSettings(export=(str(tmp_path),)), Path(), tmp_path / "out", ONE_THREAD)
    assert (report.num_kept, report.left_out) == (2000, ("b.db",))
    assert file.is_file()


def test_a_damaged_database_is_an_error_and_no_part_of_it(tmp_path: Path, file: Path) -> None:
    whole = file.read_bytes()
    for number, damaged in enumerate([whole[: len(whole) // 2], whole[:8192] + bytes(4096) + whole[12288:]]):
        file.write_bytes(damaged)
        with pytest.raises(ExportError, match=r"a\.sqlite3: the database is damaged \(.*\); fetch it again"):
            read(file, tmp_path / f"out{number}")


def test_a_locked_database_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("booru_embed_core.posts.readers.sqlite._WAIT_SECONDS", 0.0)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("begin exclusive")
        with pytest.raises(ExportError, match=r"a\.sqlite3: is locked; close the program that writes it"):
            open_reader(file)


def test_changes_beside_a_database_are_read_or_refused_but_never_missed(tmp_path: Path, file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("delete from posts where id > 0")
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["a.sqlite3", "a.sqlite3-shm", "a.sqlite3-wal"]
        assert read(file, tmp_path / "out").num_read == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "out"]
        copied = tmp_path / "copied"
        copied.mkdir()
        for name in ("a.sqlite3", "a.sqlite3-wal"):
            shutil.copy(tmp_path / name, copied / name)
    with pytest.raises(ExportError, match=r"a\.sqlite3: has changes in a\.sqlite3-wal; close the program"):
        open_reader(copied / "a.sqlite3")
    # Closed in order, all is in the file, which still asks for files beside it.
    before = sorted(path.name for path in tmp_path.iterdir())
    assert read(file, tmp_path / "out2").num_read == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out2"])


def test_raw_rows_are_json(file: Path) -> None:
    reader = open_reader(file)
    assert isinstance(reader, SqliteReader)
    ((number, raw, problem),) = reader.problems([17])
    assert (number, json.loads(raw)["tag_string_general"], problem) == (17, "a b t16", None)


def test_names_that_are_no_utf8_are_no_traceback(tmp_path: Path) -> None:
    file = posts_table(tmp_path / "a.db", [row(1)])
    data = file.read_bytes()
    for number, name in enumerate((b"tag_string_meta", b"TABLE posts", b"posts (")):
        file.write_bytes(data.replace(name, name[:4] + b"\xff" + name[5:]))
        with pytest.raises(ExportError, match=r"a\.db: "):
            read(file, tmp_path / f"out{number}")
