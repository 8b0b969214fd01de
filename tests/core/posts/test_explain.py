"""What is told of exports of many shapes, and that the settings told read the same posts."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts.explain import MAX_FILES, Explanation, explain
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import CATEGORIES, TAG_COLUMNS
from booru_embed_core.settings import PostsSettings, load_settings
from tests.core.export_helpers import ONE_THREAD, csv_bytes, read_rows, row

Rows = list[dict[str, Any]]
ROWS: Rows = [row(number, f"a b t{number}", artist="x", meta="highres", score=number) for number in range(1, 31)]


def told(folder: Path, **settings: Any) -> Explanation:
    return explain(PostsSettings(**{"export": ("export",), **settings}), folder, ONE_THREAD)


def posts(folder: Path, settings: PostsSettings) -> Rows:
    out = folder / f"out{len(list(folder.glob('out*')))}"
    out.mkdir()
    read_export(settings, folder, out, ONE_THREAD)
    return read_rows(out)


def by_the_settings(folder: Path, explanation: Explanation) -> Rows:
    """The posts by the settings that `explanation` tells."""
    (folder / "told.toml").write_text(explanation.settings, encoding="utf-8")
    return posts(folder, load_settings(folder / "told.toml").posts)


def renamed(rows: Rows, **names: str) -> Rows:
    return [{names.get(name, name): value for name, value in one.items()} for one in rows]


def write_csv(folder: Path, rows: Rows) -> None:
    text = csv_bytes(rows, columns=tuple(rows[0]))
    (folder / "posts.csv").write_bytes(text)


def write_tsv_gz(folder: Path, rows: Rows) -> None:
    (folder / "posts.tsv.gz").write_bytes(gzip.compress(csv_bytes(rows, delimiter="\t")))


def write_commas(folder: Path, rows: Rows) -> None:
    pq.write_table(
        pa.Table.from_pylist([one | {name: one[name].replace(" ", ", ") for name in TAG_COLUMNS} for one in rows]),
        folder / "posts.parquet",
    )


def write_short_names(folder: Path, rows: Rows) -> None:
    short = renamed(rows, **{f"tag_string_{c}": str(c) for c in CATEGORIES})
    pq.write_table(pa.Table.from_pylist(short), folder / "a.parquet")


def write_nested(folder: Path, rows: Rows) -> None:
    nested = [
        {"id": one["id"], "rating": one["rating"], "score": {"total": one["score"]}, "flags": {"deleted": False}}
        | {"tags": {str(c): one[f"tag_string_{c}"].split() for c in CATEGORIES}}
        for one in rows
    ]
    (folder / "posts.jsonl").write_text("\n".join(map(json.dumps, nested)), encoding="utf-8")


def write_sqlite(folder: Path, rows: Rows) -> None:
    with closing(sqlite3.connect(folder / "posts.db")) as connection:
        connection.execute(f"create table images ({', '.join(rows[0])})")
        for one in rows:
            connection.execute(f"insert into images values ({', '.join('?' * len(one))})", list(one.values()))
        connection.commit()


def write_null_words(folder: Path, rows: Rows) -> None:
    pq.write_table(
        pa.Table.from_pylist([one | {name: one[name] or "None" for name in TAG_COLUMNS} for one in rows]),
        folder / "posts.parquet",
    )


@pytest.mark.parametrize(
    ("write", "kind", "in_settings"),
    [
        (write_csv, "CSV, comma, quotes", "[posts]\nexport"),
        (write_tsv_gz, "CSV, tab, ", "[posts]\nexport"),
        (write_commas, "Parquet", 'tag_separator = ","'),
        (write_short_names, "Parquet", 'tag_string_general = "general"'),
        (write_nested, "JSON lines", "[posts]\nexport"),
        (write_sqlite, "SQLite, table images", "[posts]\nexport"),
        (write_null_words, "Parquet", 'null_words = ["\\\\N", "None"]'),
    ],
)
def test_what_is_told_reads_the_same_posts(
    tmp_path: Path, write: Callable[[Path, Rows], None], kind: str, in_settings: str
) -> None:
    (tmp_path / "export").mkdir()
    write(tmp_path / "export", ROWS)
    before = sorted(tmp_path.rglob("*"))
    explanation = told(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    (file,) = explanation.files
    assert file.kind.startswith(kind)
    assert (file.refused, file.num_sampled, file.num_rejected, file.reasons) == (None, 30, 0, ())
    assert file.ratings == {"s": (30, "s")}
    assert in_settings in explanation.settings
    assert explanation.is_complete
    assert by_the_settings(tmp_path, explanation) == posts(tmp_path, PostsSettings(export=("export",))) == ROWS


def without(name: str) -> Rows:
    return [{key: value for key, value in one.items() if key != name} for one in ROWS]


ALL_TAGS = [{"id": 1, "rating": "s", "score": 0, "tags": "a b"}, {"id": 2, "rating": "e", "score": 0, "tags": "c"}]


@pytest.mark.parametrize(
    ("rows", "refused", "in_settings"),
    [
        (without("score"), "missing: score", "missing_score = 0  # there is no column score"),
        (without("rating"), "missing: rating", 'missing_rating = "g"  # there is no column rating'),
        (without("id"), "missing: id", 'missing_id = "row"'),
        (without("tag_string_meta"), "missing: tag_string_meta", 'tag_string_meta = ""  # there is none'),
        (renamed(ROWS, id="Post ID", score="scores"), "missing: id,score", 'id = "Post ID"  # a guess'),
        (renamed(ROWS, tag_string_artist="artist_tags"), "missing: tag_string_artist", '_artist = "artist_tags"'),
        (renamed(ALL_TAGS, tags="tag_list"), "missing: tag_string_general", "tag_string_general = \"tag_list\""),
        (ALL_TAGS, "has tags and no column of a category", 'tag_string_general = "tags"  # all tags count as general'),
        ([one | {"rating": "safe"} for one in ROWS], "rating 'safe' is not one of", 'safe = "g"  # or "s"'),
        ([one | {"rating": n % 4} for n, one in enumerate(ROWS)], "rating '0' is not one of", '3 = "e"  # a guess'),
        ([one | {"score": ""} for one in ROWS], "score is missing", "missing_score = 0"),
        (
            [one | {"is_deleted": "on" if one["id"] > 20 else "off"} for one in ROWS],
            "is_deleted 'off' is neither true nor false",
            'is_deleted = ["on"]  # a guess',
        ),
    ],
)  # fmt: skip
def test_an_export_that_is_refused_gets_settings_that_read_it(
    tmp_path: Path, rows: Rows, refused: str, in_settings: str
) -> None:
    (tmp_path / "export").mkdir()
    write_csv(tmp_path / "export", rows)
    with pytest.raises(ExportError):
        posts(tmp_path, PostsSettings(export=("export",)))
    explanation = told(tmp_path)
    (file,) = explanation.files
    assert refused in (file.refused or "")
    assert in_settings in explanation.settings
    assert explanation.is_complete
    kept = [one for one in rows if one.get("is_deleted") != "on"]
    assert len(by_the_settings(tmp_path, explanation)) == len(kept)


def test_captions_need_a_preset_and_no_table_of_tags(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    for number in range(3):
        (tmp_path / f"export/{number}.txt").write_text(f"1girl, long hair, t{number}", encoding="utf-8")
        (tmp_path / f"export/{number}.png").touch()
    explanation = told(tmp_path)
    (file,) = explanation.files
    assert "missing_rating" in (file.refused or "")
    assert explanation.is_complete
    assert [post["tag_string_general"] for post in by_the_settings(tmp_path, explanation)] == [
        f"1girl long_hair t{number}" for number in range(3)
    ]


def test_what_cannot_be_guessed_is_not_made_up(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    write_csv(tmp_path / "export", [{"id": 1, "rating": "g", "score": 2, "things": "a b"}])
    explanation = told(tmp_path)
    assert not explanation.is_complete
    assert "missing: tag_string_general" in (explanation.files[0].refused or "")
    (tmp_path / "export/posts.csv").write_bytes(b"\x7fELF" + bytes(range(200)))
    with pytest.raises(ExportError, match=r"posts\.csv"):
        told(tmp_path)


def test_rejects_ratings_flags_and_unused_columns_are_counted(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    rows = [one | {"is_deleted": one["id"] == 7, "md5": "x", "rating": "General"} for one in ROWS * 40]
    rows[3] |= {"score": "many"}
    write_csv(tmp_path / "export", rows)
    (file,) = told(tmp_path).files
    assert (file.num_sampled, file.num_rejected, file.num_hidden) == (1000, 1, 34)
    assert file.reasons == ("line 5: score 'many' is not a whole number from -2147483648 to 2147483647",)
    assert file.refused is None
    assert file.unused == ("md5",)
    assert file.columns["is_deleted"] == "is_deleted"
    assert file.ratings == {"General": (1000, "g")}


def test_doubts_are_noted(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    write_csv(tmp_path / "export", [one | {"tag_string_general": "a&#039;b c"} for one in ROWS])
    (file,) = told(tmp_path).files
    entities, safe = file.notes
    assert entities == "30 records hold entities such as &#039;; html_entities = true takes them back"
    assert safe.startswith("no rating is g: if s is safe here")
    (file,) = told(tmp_path, html_entities=True, rating_names={"s": "g"}).files
    assert file.notes == ()


def test_many_files_and_archives_are_looked_at_in_part(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    for number in range(MAX_FILES + 3):
        (tmp_path / f"export/{number:02}.csv").write_bytes(csv_bytes(ROWS[:1]))
    (tmp_path / "export/README.md").touch()
    (tmp_path / "export/00.tags.csv").write_text("id,name\n1,a\n", encoding="utf-8")
    explanation = told(tmp_path)
    assert [file.file for file in explanation.files] == [f"{number:02}.csv" for number in range(MAX_FILES)]
    assert explanation.num_more_files == 3
    assert explanation.left_out == ("README.md", "00.tags.csv")


def test_several_sources_become_several_sections(tmp_path: Path) -> None:
    for number, rating in (("1", "safe"), ("2", "s")):
        (tmp_path / number).mkdir()
        write_csv(tmp_path / number, [one | {"rating": rating} for one in ROWS])
    lines = [f"[[posts.source]]\nsite = 'site{n}'\nexport = ['{n}']\n" for n in (1, 2)]
    (tmp_path / "settings.toml").write_text("[posts]\nmin_score = 5\n" + "".join(lines), encoding="utf-8")
    explanation = explain(load_settings(tmp_path / "settings.toml").posts, tmp_path, ONE_THREAD)
    assert [bool(file.refused) for file in explanation.files] == [True, False]
    read = by_the_settings(tmp_path, explanation)
    assert ([one["rating"] for one in read], len(read)) == (["g"] * 26 + ["s"] * 26, 52)


def test_a_table_of_bigquery_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a BigQuery table has Danbooru's columns and needs no explanation"):
        explain(PostsSettings(bigquery_table="a.b.c"), tmp_path, ONE_THREAD)
