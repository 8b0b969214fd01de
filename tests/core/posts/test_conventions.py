"""Exports of other boorus, hand-made in the shapes of source: columns, ratings and categories by their own names."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import POST_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings, SourceSettings
from tests.core.export_helpers import read_rejects, read_rows

TABLE = "tag,category,post_count\nbig_hat,0,9\nanna_paints,1,3\ntown_story,3,4\nmira,4,2\nscan,5,1\n"
GELBOORU = {"columns": {"tag_string": "tags"}, "tag_categories": "tags.csv", "export": ["posts.json"]}
E621 = {
    "export": ["posts.csv"],
    "tag_categories": "tags.csv",
    "rating_names": {"s": "g"},
    "category_numbers": {"2": "artist", "5": "general", "6": "meta", "7": "meta", "8": "meta"},
}
E621_TAGS = """\
id,name,category,post_count
1,big_hat,0,9
2,anna,1,3
3,bo_voice,2,1
4,lynx,5,7
5,hi_res,7,9
6,story,8,1
"""
E621_POSTS = """\
id,uploader_id,created_at,md5,source,rating,tag_string,fav_count,is_deleted,is_flagged,score
10,1,2020-01-01,a,,s,anna big_hat bo_voice hi_res lynx,4,f,f,12
11,1,2020-01-01,b,,q,lynx story unheard_of,0,f,f,-3
12,1,2020-01-01,c,,e,big_hat,2,t,f,5
11,1,2020-01-02,d,,e,big_hat,2,f,f,5
13,1,2020-01-01,e,,safe,big_hat,2,f,f,5
"""


def read(folder: Path, settings: dict[str, object], **files: str | bytes) -> tuple[PostsReport, Path]:
    """What becomes of an export of `files` by their names, ``__`` for the dot."""
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(data)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    values = PostsSettings.model_validate({"max_rejected_share": 0.9, **settings})
    return read_export(values, folder, out, DuckdbSettings(threads=1)), out


def tags_of(posts_dir: Path) -> list[dict[str, object]]:
    """The posts without the fields that are empty."""
    return [{name: value for name, value in row.items() if value != ""} for row in read_rows(posts_dir)]


def json_lines(*posts: dict[str, object]) -> str:
    return "".join(json.dumps(post) + "\n" for post in posts)


@pytest.mark.parametrize("limit", [None, 100])  # with a limit CSV is read piece by piece
@pytest.mark.parametrize("is_parquet", [False, True])
def test_e621(tmp_path: Path, limit: int | None, is_parquet: bool) -> None:
    posts: str | bytes = E621_POSTS
    if is_parquet:
        sink = io.BytesIO()
        pq.write_table(pyarrow.csv.read_csv(io.BytesIO(E621_POSTS.encode())), sink)
        posts = sink.getvalue()
    report, out = read(tmp_path, {**E621, "limit_posts": limit}, posts__csv=posts, tags__csv=E621_TAGS)
    assert tags_of(out) == [
        {"id": 10, "rating": "g", "score": 12, "tag_string_general": "big_hat lynx"}
        | {"tag_string_artist": "anna bo_voice", "tag_string_meta": "hi_res"},
        {"id": 11, "rating": "q", "score": -3, "tag_string_general": "lynx unheard_of", "tag_string_meta": "story"},
    ]
    assert report.reconciles
    assert (report.num_read, report.num_kept, report.num_filtered) == (5, 2, 1)
    assert (report.num_duplicate, report.num_rejected, report.num_unknown_tags) == (1, 1, 1)
    assert "rating 'safe' is not one of g, s, q, e; say which one it is in [posts.rating_names]" in {
        row["reason"] for row in read_rejects(out)
    }


def test_gelbooru(tmp_path: Path) -> None:
    posts = json_lines(
        {"id": 7, "rating": "general", "score": 3, "tags": "anna_paints big_hat mira", "tag_string": "not these"},
        {"id": 8, "rating": "sensitive", "score": 0, "tags": "scan town_story"},
        {"id": 9, "rating": "questionable", "score": -1, "tags": ""},
        {"id": 10, "rating": "explicit", "score": 1, "tags": ["big_hat"]},
        {"id": 11, "rating": "safe", "score": 1, "tags": "big_hat"},
        {"id": 12, "rating": "explicit", "score": 1},
    )
    report, out = read(tmp_path, GELBOORU, posts__json=posts, tags__csv=TABLE)
    assert [row["rating"] for row in read_rows(out)] == ["g", "s", "q", "e", "e"]
    assert tags_of(out)[0] == {"id": 7, "rating": "g", "score": 3, "tag_string_general": "big_hat"} | {
        "tag_string_artist": "anna_paints",
        "tag_string_character": "mira",
    }
    assert (report.num_read, report.num_kept, report.num_rejected, report.reconciles) == (6, 5, 1, True)
    assert [row["reason"] for row in read_rejects(out)] == [
        "rating 'safe' is not one of g, s, q, e; say which one it is in [posts.rating_names]",
    ]


def test_safebooru(tmp_path: Path) -> None:
    posts = 'id\tscore\trating\ttags\n1\t5\tsafe\tbig_hat mira\n2\t0\tgeneral\t""\n'
    settings = {**GELBOORU, "export": ["posts.tsv"], "rating_names": {"safe": "g"}}
    report, out = read(tmp_path, settings, posts__tsv=posts, tags__csv=TABLE)
    assert tags_of(out) == [
        {"id": 1, "rating": "g", "score": 5, "tag_string_general": "big_hat", "tag_string_character": "mira"},
        {"id": 2, "rating": "g", "score": 0},
    ]
    assert (report.num_read, report.num_kept, report.reconciles) == (2, 2, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"columns": {"tag_string": "labels", "id": "post_id"}},
            r"posts\.json: wrong columns: found 'id,rating,score,tags', wanted post_id,rating,score,labels; "
            r"missing: post_id,labels; export these columns or set \[posts\.columns\]",
        ),
        ({"tag_categories": None}, r"posts\.json: has tags and none of .*; set \[posts\] tag_categories"),
        (
            {"tag_categories": "numbers.csv"},
            r"the tag 'big_hat' has the category '9', .*; correct it or set \[posts\] category_numbers",
        ),
    ],
)
def test_errors_name_what_is_there_and_what_is_wanted(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    posts = json_lines({"id": 7, "rating": "general", "score": 3, "tags": "big_hat"})
    with pytest.raises(ExportError, match=message):
        read(tmp_path, GELBOORU | changes, posts__json=posts, tags__csv=TABLE, numbers__csv="tag,category\nbig_hat,9\n")


def test_a_column_is_named_once() -> None:
    with pytest.raises(ValueError, match="column 'tags' is named twice"):
        PostsSettings.model_validate({"columns": {"tag_string": "tags", "rating": "tags"}})


def test_without_settings_all_names_are_danboorus() -> None:
    assert replace(Conventions.of(PostsSettings()), tag_separator=" ", null_words=()) == DANBOORU
    assert DANBOORU.canonical(["id", "md5"]) == ("id", "md5")
    assert Conventions({"id": "no", "score": "id"}).canonical(["id", "no", "score"]) == ("score", "id", "other score")


@pytest.mark.parametrize(
    ("word", "rating"),
    [
        ("rating:general", "g"),
        ("rating:e", "e"),
        ("Sensitive", "s"),
        ("Safe", "g"),
        ("SAFE", "g"),
        ("rating:safe", "g"),
        ("2.0", "q"),
        ("safest", None),
    ],
)
def test_ratings_in_other_spellings(word: str, rating: str | None) -> None:
    source = SourceSettings.model_validate({"rating_names": {"safe": "g", "2": "q"}})
    assert Conventions.of(source).ratings.get(word) == rating


def test_a_spelling_that_the_settings_give_wins() -> None:
    source = SourceSettings.model_validate({"rating_names": {"s": "g", "General": "s"}})
    ratings = Conventions.of(source).ratings
    assert (ratings["S"], ratings["rating:s"], ratings["General"], ratings["general"]) == ("g", "g", "s", "g")


@pytest.mark.parametrize("words", [("yes", "no"), ("Y", "N"), ("T", "F")])
def test_flags_that_people_write(tmp_path: Path, words: tuple[str, str]) -> None:
    true, false = words
    rows = f"1,g,1,a,,,,,{true}\n2,g,1,a,,,,,{false}\n"
    report, out = read(tmp_path, {"export": ["p.csv"]}, p__csv=",".join((*POST_COLUMNS, "is_deleted")) + "\n" + rows)
    assert (report.num_filtered, [post["id"] for post in tags_of(out)]) == (1, [2])


def test_numbers_as_mongodb_exports_them(tmp_path: Path) -> None:
    number = {"$numberLong": "7000000001"}
    post = {"_id": {"$oid": "5f"}, "id": number, "rating": "g", "score": {"$numberInt": "-2"}, "general": ["a b"]}
    of_document = {"_id": number, "rating": "g", "score": {"$numberInt": "-2"}, "general": ["a b"]}
    for folder, one in (("a", post), ("b", of_document)):
        (tmp_path / folder).mkdir()
        _, out = read(tmp_path / folder, {"export": ["p.json"]}, p__json=json_lines(one))
        assert tags_of(out) == [{"id": 7000000001, "rating": "g", "score": -2, "tag_string_general": "a_b"}]
