"""The first records of a file: how many are looked at, and what a reader tells of its columns."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.file_sample import FileSample
from booru_embed_core.posts.validation import ColumnsError
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, csv_bytes, row


def sample(file: Path, scratch: Path, settings: PostsSettings | None = None) -> FileSample:
    settings = settings or PostsSettings()
    return FileSample.of(file, Conventions.of(settings.sources[0]), settings, ONE_THREAD, scratch)


def test_a_thousand_records_and_the_malformed_ones_among_them_are_looked_at(tmp_path: Path) -> None:
    lines = csv_bytes([row(number) for number in range(3000)]).splitlines(keepends=True)
    lines[10] = b"1,2,3\n"
    lines[2500] = b"1,2,3\n"
    file = tmp_path / "posts.csv.gz"
    file.write_bytes(gzip.compress(b"".join(lines)))
    found = sample(file, tmp_path)
    assert (found.num_records, found.num_malformed, found.num_rejected) == (1001, 1, 1)
    assert found.problems == [(11, "3 fields instead of 8")]
    assert found.explanation("posts", None).kind == "CSV, comma, quotes, doubled, gzip"


def test_nested_columns_are_told_by_their_paths(tmp_path: Path) -> None:
    post = {"id": 1, "rating": "g", "score": {"total": 2, "up": 3}, "tags": {"general": ["a"], "species": ["cat"]}}
    file = tmp_path / "posts.jsonl"
    file.write_text(json.dumps(post), encoding="utf-8")
    found = sample(file, tmp_path)
    assert found.columns["tag_string_general"] == "tags.general + tags.species"
    assert found.columns["score"] == "score.total"
    assert found.unused == ("score.up",)
    assert found.explanation("posts", None).tag_separator is None


def test_a_relation_of_tags_is_told_by_its_table(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(
            "create table posts (id integer primary key, rating, score); create table tags (id, name, category);"
            "create table post_tags (post_id, tag_id); insert into posts values (1, 'g', 0);"
            "insert into tags values (1, 'a', 0); insert into post_tags values (1, 1);"
        )
    found = sample(file, tmp_path)
    assert found.columns["tag_string_artist"] == "post_tags.tag_id"
    assert found.unused == ()
    assert found.explanation("a.db", None).kind == "SQLite, table posts"


def test_an_empty_table_and_missing_ids_are_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "posts.csv"
    file.write_bytes(csv_bytes([]))
    assert sample(file, tmp_path).num_records == 0
    columns = [name for name in row(1) if name != "id"]
    rows = [{name: row(1)[name] for name in columns} for _ in range(3)]
    file.write_bytes(csv_bytes(rows, columns=columns))
    assert sample(file, tmp_path, PostsSettings(missing_id="row")).num_rejected == 0
    with pytest.raises(ColumnsError, match=r"posts\.csv: wrong columns: .* missing: id;"):
        sample(file, tmp_path)
