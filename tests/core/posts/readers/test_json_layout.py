"""Where the values of a post stand in JSON: flat, nested, in lists, in objects with a category."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.readers.json_layout import JsonLayout
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, read_rejects, read_rows

VALUES = {"id": 7, "rating": "s", "score": 3}
GROUPS = {"general": ["anthro", "long hair"], "artist": ["a_b"], "copyright": [], "character": [], "meta": ["hi_res"]}


def read(folder: Path, records: list[Any], **settings: Any) -> tuple[PostsReport, list[dict[str, Any]], Path]:
    out = folder / f"out-{len(list(folder.iterdir()))}"
    out.mkdir()
    (folder / "posts.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    values = PostsSettings.model_validate({"export": ["posts.jsonl"], "max_rejected_share": 0.9, **settings})
    report = read_export(values, folder, out, ONE_THREAD)
    return report, [{name: value for name, value in post.items() if value != ""} for post in read_rows(out)], out


def test_tags_by_category_in_an_object_with_e621s_further_groups(tmp_path: Path) -> None:
    tags = {**GROUPS, "species": ["canine"], "lore": ["male_(lore)"], "contributor": ["helper"], "invalid": []}
    record = {**VALUES, "score": {"up": 9, "down": -2, "total": 7}, "tags": tags, "flags": {"deleted": False}}
    deleted = {**record, "id": 8, "flags": {"deleted": True}}
    report, posts, _ = read(tmp_path, [record, deleted, {**record, "id": 9, "flags": {}, "tags": {}}])
    assert (report.num_kept, report.num_filtered, report.reconciles) == (2, 1, True)
    assert posts[0] == {
        "id": 7,
        "rating": "s",
        "score": 7,
        "tag_string_general": "anthro long_hair canine",
        "tag_string_artist": "a_b helper",
        "tag_string_meta": "hi_res male_(lore)",
    }
    assert posts[1] == {"id": 9, "rating": "s", "score": 7}


def test_a_group_without_a_category_is_named_with_its_setting(tmp_path: Path) -> None:
    record = {**VALUES, "tags": {**GROUPS, "mood": ["happy"]}}
    with pytest.raises(ExportError, match=r'tags\.mood is a group of tags .* \[posts\.category_numbers\] mood = "gen'):
        read(tmp_path, [record])
    _, posts, _ = read(tmp_path, [record], category_numbers={"mood": "meta"})
    assert posts[0]["tag_string_meta"] == "hi_res happy"


@pytest.mark.parametrize(("name", "category"), [("name", "category"), ("tag", "type")])
def test_tags_as_objects_with_a_category(tmp_path: Path, name: str, category: str) -> None:
    tags = [(f"tag_{number}", number) for number in (0, 1, 3, 4, 5)] + [("long hair", "0"), ("miku", "character")]
    record = {"id": "7", "rating": "s", "score": "3", "tags": [{name: tag, category: number} for tag, number in tags]}
    unknown = {**record, "id": 8, "tags": [{name: "x", category: 9}]}
    report, posts, out = read(tmp_path, [record, unknown, {**record, "id": 9, "tags": []}])
    assert (report.num_kept, report.num_rejected, report.reconciles) == (2, 1, True)
    assert posts[0] == {
        "id": 7,
        "rating": "s",
        "score": 3,
        "tag_string_general": "tag_0 long_hair",
        "tag_string_artist": "tag_1",
        "tag_string_copyright": "tag_3",
        "tag_string_character": "tag_4 miku",
        "tag_string_meta": "tag_5",
    }
    assert "unknown category; set [posts] category_numbers" in str(read_rejects(out)[0]["reason"])
    report, posts, _ = read(tmp_path, [record, unknown], category_numbers={"9": "meta"})
    assert posts[1]["tag_string_meta"] == "x"


def test_paths_with_dots_are_named_in_the_settings(tmp_path: Path) -> None:
    record = {"post": {"number": 7, "stars": {"n": 3}}, "grade": "g", "words": {"all": "a b"}, "state": {"gone": True}}
    columns = {
        "id": "post.number",
        "score": "post.stars.n",
        "rating": "grade",
        "tag_string_general": "words.all",
        "is_deleted": "state.gone",
        **dict.fromkeys(("tag_string_artist", "tag_string_copyright", "tag_string_character", "tag_string_meta"), ""),
    }
    other = {**record, "post": {"number": 8, "stars": {"n": 1}}, "state": {"gone": False}}
    report, posts, _ = read(
        tmp_path, [record, other, {**other, "post": {"number": 9, "stars": {"n": 2}}, "state": None}], columns=columns
    )
    assert (report.num_kept, report.num_filtered) == (2, 1)
    assert posts[0] == {"id": 8, "rating": "g", "score": 1, "tag_string_general": "a b"}


def test_values_beside_nested_columns_of_tags_are_no_groups(tmp_path: Path) -> None:
    record = {"post": {**VALUES, "tag_string_general": "a b", "md5": "x"}, "n": 1}
    columns = {name: f"post.{name}" for name in ("id", "rating", "score", "tag_string_general")}
    columns |= {f"tag_string_{name}": "" for name in ("artist", "copyright", "character", "meta")}
    _, posts, _ = read(tmp_path, [record], columns=columns)
    assert posts == [{**VALUES, "tag_string_general": "a b"}]


def test_a_key_with_a_dot_is_one_key(tmp_path: Path) -> None:
    record = {**VALUES, "tag.s": "a b"}
    _, posts, _ = read(
        tmp_path,
        [record],
        columns={
            "tag_string_general": "tag.s",
            **dict.fromkeys(
                ("tag_string_artist", "tag_string_copyright", "tag_string_character", "tag_string_meta"), ""
            ),
        },
    )
    assert posts[0]["tag_string_general"] == "a b"


def test_lists_of_tags_where_some_are_strings_and_some_are_missing(tmp_path: Path) -> None:
    records = [
        {**VALUES, "tags_general": ["a", "long hair"], "tags_artist": "x y"},
        {**VALUES, "id": 8, "tags_general": None},
        {**VALUES, "id": 9, "tags_general": "a b", "tags_meta": ["hi"]},
        {**VALUES, "id": 10, "tags_general": [{"a": 1}]},
        {**VALUES, "id": 11, "tags_general": 5},
        {**VALUES, "id": 12, "tags_general": ["", None, "a", 2023]},
    ]
    report, posts, out = read(tmp_path, records)
    assert [post.get("tag_string_general") for post in posts] == ["a long_hair", None, "a b", "a 2023"]
    assert posts[0]["tag_string_artist"] == "x y"
    assert posts[2]["tag_string_meta"] == "hi"
    assert [str(reject["reason"])[:44] for reject in read_rejects(out)] == [
        "tag_string_general is not a list of strings:"
    ] * 2
    assert report.reconciles


@pytest.mark.parametrize("nothing", [{}, float("nan"), None, []])
@pytest.mark.parametrize("tags", ["a b", ["a", "b"]])
def test_nan_and_an_empty_object_are_no_tags(tmp_path: Path, nothing: object, tags: object) -> None:
    records = [{**VALUES, "general": tags, "artist": nothing}, {**VALUES, "id": 8, "general": nothing, "artist": "NaN"}]
    report, posts, _ = read(tmp_path, records, null_words=[])
    assert report.num_kept == 2
    assert [post.get("tag_string_general") for post in posts] == ["a b", None]
    assert [post.get("tag_string_artist") for post in posts] == [None, "NaN"]


def test_half_a_surrogate_pair_counts_only_where_it_is_read(tmp_path: Path) -> None:
    lines = [
        r'{"id": 1, "rating": "g", "score": 0, "tags": "a", "source": "cut \ud83d"}',
        r'{"id": 2, "rating": "g", "score": 0, "tags": "a \ud83d b", "source": ""}',
        r'{"id": 3, "rating": "g", "score": 0, "tags": "a \ud83d\ude00", "source": "\\ud83d"}',
        r'{"id": 4, "rating": "g", "score": 0, "tags": "a", "source": "\ude00"}',
    ]
    (tmp_path / "posts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    columns = {
        "tag_string_general": "tags",
        **dict.fromkeys(("tag_string_artist", "tag_string_copyright", "tag_string_character", "tag_string_meta"), ""),
    }
    settings = PostsSettings.model_validate({"export": ["posts.jsonl"], "columns": columns, "max_rejected_share": 0.9})
    (out := tmp_path / "out").mkdir()
    report = read_export(settings, tmp_path, out, ONE_THREAD)
    assert [(post["id"], post["tag_string_general"]) for post in read_rows(out)] == [
        (1, "a"),
        (3, "a \U0001f600"),
        (4, "a"),
    ]
    (reject,) = read_rejects(out)
    assert (reject["line"], reject["reason"]) == (2, "half of a surrogate pair in a value that is read")
    assert report.reconciles


def test_a_key_that_only_later_objects_have_is_found(tmp_path: Path) -> None:
    records = [{**VALUES, "id": number, "tags": {"general": ["a"]}} for number in range(1200)]
    records.append({**VALUES, "id": 1200, "tags": {"general": ["a"], "artist": ["late"]}})
    records.append({**VALUES, "id": 1201, "tags": {"general": ["a"], "mood": ["late"], "empty": []}})
    _, posts, out = read(tmp_path, records)
    assert posts[-1]["tag_string_artist"] == "late"
    (reject,) = read_rejects(out)
    assert reject["reason"] == "mood is a group of tags without a category; set [posts.category_numbers]"


def test_the_layout_shows_the_files_names() -> None:
    record = {**VALUES, "tags": {**GROUPS, "species": ["x"]}}
    shown = JsonLayout.of([record], Path("x"), Conventions()).shown()
    assert shown["tag_string_general"] == "tags.general + tags.species"
    assert shown["id"] == "id"
