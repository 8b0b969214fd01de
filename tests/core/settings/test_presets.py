"""Each preset reads an export in exactly the shape of its site or tool."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.schema import TAG_COLUMNS
from booru_embed_core.settings import PRESETS, PostsSettings
from tests.core.export_helpers import ONE_THREAD, read_rows

TAGS = "name,category\ncat_ears,0\nsome_artist,1\nsome_series,3\nsome_one,4\nit's,0\nhi_res,5\n"
E621_TAGS = "id,name,category,post_count\n1,canine,5,9\n2,hi_res,7,9\n3,male_(lore),8,1\n4,helper,2,1\n5,cat_ears,0,5\n"


def read(
    folder: Path, preset: str, file: str, content: str, **settings: Any
) -> tuple[PostsReport, list[dict[str, Any]]]:
    out = folder / "out"
    out.mkdir()
    path = folder / file
    path.write_bytes(gzip.compress(content.encode()) if file.endswith(".gz") else content.encode())
    (folder / "tags.csv").write_text(settings.pop("table", TAGS), encoding="utf-8")
    values = PostsSettings.model_validate({"preset": preset, "export": [file], **settings})
    report = read_export(values, folder, out, ONE_THREAD)
    return report, [{name: value for name, value in post.items() if value != ""} for post in read_rows(out)]


def test_gelbooru_api(tmp_path: Path) -> None:
    post = {
        "id": 9000001,
        "created_at": "Sat Nov 07 05:00:00 -0500 2026",
        "score": 3,
        "width": 10,
        "md5": "0" * 32,
        "directory": "00/00",
        "rating": "general",
        "source": "",
        "change": 1,
        "owner": "someone",
        "tags": "cat_ears it&#039;s some_artist",
        "title": "",
        "has_notes": "false",
        "status": "active",
        "post_locked": 0,
    }
    posts = [post, {**post, "id": 2, "status": "deleted"}, {**post, "id": 3, "rating": "explicit", "tags": ""}]
    answer = {"@attributes": {"limit": 100, "offset": 0, "count": 3}, "post": posts}
    report, rows = read(tmp_path, "gelbooru-api", "page-0.json", json.dumps(answer), tag_categories="tags.csv")
    assert (report.num_kept, report.num_filtered, report.num_unknown_tags) == (2, 1, 0)
    assert rows == [
        {"id": 9000001, "rating": "g", "score": 3, "tag_string_general": "cat_ears it's"}
        | {"tag_string_artist": "some_artist"},
        {"id": 3, "rating": "e", "score": 3},
    ]


def test_moebooru_api(tmp_path: Path) -> None:
    post = {
        "id": 1,
        "tags": "cat_ears some_one",
        "created_at": 1700000000,
        "author": "someone",
        "score": 12,
        "rating": "s",
        "has_children": False,
        "parent_id": None,
        "status": "active",
        "is_pending": False,
        "is_held": False,
    }
    posts = [post, {**post, "id": 2, "status": "deleted"}, {**post, "id": 3, "rating": "q", "status": "pending"}]
    report, rows = read(tmp_path, "moebooru-api", "post.json", json.dumps(posts), tag_categories="tags.csv")
    assert (report.num_kept, report.num_filtered) == (2, 1)
    assert rows[0] == {
        "id": 1,
        "rating": "g",
        "score": 12,
        "tag_string_general": "cat_ears",
        "tag_string_character": "some_one",
    }
    assert rows[1]["rating"] == "q"


def test_the_sites_own_tables_of_tags_come_with_their_posts(tmp_path: Path) -> None:
    kinds = {"cat_ears": 0, "some_one": 4, "some_circle": 5, "duplicate": 6}
    tags = [{"id": 1, "name": name, "count": 9, "type": kind, "ambiguous": False} for name, kind in kinds.items()]
    post = {"id": 1, "tags": " ".join(kinds), "score": 1, "rating": "s", "status": "active"}
    (tmp_path / "yandere").mkdir()
    table = json.dumps(tags)
    _, rows = read(
        tmp_path / "yandere", "moebooru-api", "p.json", json.dumps([post]), tag_categories="tags.csv", table=table
    )
    assert rows == [
        {"id": 1, "rating": "g", "score": 1, "tag_string_general": "cat_ears", "tag_string_character": "some_one"}
        | {"tag_string_artist": "some_circle", "tag_string_meta": "duplicate"}
    ]
    kinds = {"it&#039;s": 3, "r&amp;d": 0}
    tags = [{"id": 1, "name": name, "count": 9, "type": kind, "ambiguous": 0} for name, kind in kinds.items()]
    table = json.dumps({"@attributes": {"limit": 100}, "tag": tags})
    (tmp_path / "gelbooru").mkdir()
    posts = {"post": [{"id": 2, "tags": " ".join(kinds), "score": 1, "rating": "general"}]}
    _, rows = read(
        tmp_path / "gelbooru", "gelbooru-api", "p.json", json.dumps(posts), tag_categories="tags.csv", table=table
    )
    assert rows == [
        {"id": 2, "rating": "g", "score": 1, "tag_string_general": "r&d", "tag_string_copyright": "it's"},
    ]


def test_danbooru_api(tmp_path: Path) -> None:
    post = {
        "id": 5,
        "rating": "s",
        "score": 7,
        "tag_string": "cat_ears some_artist",
        "tag_string_general": "cat_ears",
        "tag_string_artist": "some_artist",
        "tag_string_copyright": "",
        "tag_string_character": "",
        "tag_string_meta": "",
        "is_deleted": False,
        "is_banned": False,
        "is_flagged": False,
        "media_asset": {"id": 5, "variants": [{"type": "180x180", "width": 180}]},
    }
    banned = {**post, "id": 6, "is_banned": True}
    report, rows = read(tmp_path, "danbooru-api", "posts.json", json.dumps([post, banned]))
    assert (report.num_kept, report.num_filtered) == (1, 1)
    assert rows == [
        {"id": 5, "rating": "s", "score": 7, "tag_string_general": "cat_ears", "tag_string_artist": "some_artist"}
    ]


def test_danbooru_2021(tmp_path: Path) -> None:
    names = [("cat_ears", "0"), ("some_artist", "1"), ("some_series", "3"), ("some_one", "4"), ("hi_res", "5")]
    tags = [{"id": str(number), "name": name, "category": category} for number, (name, category) in enumerate(names)]
    post = {"id": "5", "rating": "s", "score": "7", "is_deleted": False, "tags": tags, "pools": [], "favs": ["1"]}
    lines = "\n".join(map(json.dumps, [post, {**post, "id": "6", "is_deleted": True}]))
    report, rows = read(tmp_path, "danbooru-2021", "2021000000000000.json", lines)
    assert (report.num_kept, report.num_filtered) == (1, 1)
    assert rows == [
        {"id": 5, "rating": "g", "score": 7, **dict(zip(TAG_COLUMNS, (name for name, _ in names), strict=True))}
    ]


def test_e621_api(tmp_path: Path) -> None:
    post = {
        "id": 5,
        "score": {"up": 9, "down": -2, "total": 7},
        "rating": "s",
        "flags": {"pending": False, "flagged": False, "note_locked": False, "status_locked": False, "deleted": False},
        "tags": {
            "general": ["cat_ears"],
            "artist": ["some_artist"],
            "contributor": [],
            "copyright": [],
            "character": [],
            "species": ["canine"],
            "invalid": [],
            "meta": ["hi_res"],
            "lore": ["male_(lore)"],
        },
        "locked_tags": [],
    }
    deleted = {**post, "id": 6, "flags": {**post["flags"], "deleted": True}}  # type: ignore[dict-item]
    report, rows = read(tmp_path, "e621-api", "posts.json", json.dumps({"posts": [post, deleted]}))
    assert (report.num_kept, report.num_filtered) == (1, 1)
    assert rows == [
        {"id": 5, "rating": "g", "score": 7, "tag_string_general": "cat_ears canine"}
        | {"tag_string_artist": "some_artist", "tag_string_meta": "hi_res male_(lore)"}
    ]


E621_COLUMNS = (
    "id,uploader_id,created_at,md5,source,rating,image_width,image_height,tag_string,locked_tags,fav_count,file_ext,"
    "parent_id,change_seq,approver_id,file_size,comment_count,description,duration,updated_at,is_deleted,is_pending,"
    "is_flagged,score,up_score,down_score,is_rating_locked,is_status_locked,is_note_locked"
)


def e621_line(post_id: int, *, description: str = "", is_deleted: str = "f") -> str:
    quoted = '"' + description.replace('"', '""') + '"'
    return (
        f'{post_id},1,2026-01-01 00:00:00,{"0" * 32},"https://a.example\nhttps://b.example",s,10,10,'
        f"canine cat_ears helper hi_res male_(lore),,0,png,,9,,100,0,{quoted},,2026-01-01 00:00:00,"
        f"{is_deleted},f,f,7,9,-2,f,f,f"
    )


def test_e621_export(tmp_path: Path) -> None:
    texts = ['[b]"Quoted",\r\nand broken[/b]\n\nover, lines', "plain", ""]
    lines = [E621_COLUMNS, *(e621_line(number, description=text) for number, text in enumerate(texts, start=1))]
    lines.append(e621_line(9, is_deleted="t"))
    report, rows = read(
        tmp_path,
        "e621-export",
        "posts-2026-11-28.csv.gz",
        "\n".join(lines) + "\n",
        tag_categories="tags.csv",
        table=E621_TAGS,
    )
    assert (report.num_read, report.num_kept, report.num_filtered, report.num_rejected) == (4, 3, 1, 0)
    assert rows[0] == {
        "id": 1,
        "rating": "g",
        "score": 7,
        "tag_string_general": "canine cat_ears",
        "tag_string_artist": "helper",
        "tag_string_meta": "hi_res male_(lore)",
    }
    assert report.num_unknown_tags == 0


def test_a_flag_that_only_the_preset_names_may_be_missing(tmp_path: Path) -> None:
    content = "id,rating,score,tags\n1,safe,5,cat_ears\n"
    report, rows = read(tmp_path, "gelbooru-api", "posts.csv", content, tag_categories="tags.csv")
    assert report.num_kept == 1
    assert rows[0]["tag_string_general"] == "cat_ears"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_each_preset_is_valid_and_gives_way_to_what_is_set(preset: str) -> None:
    (source,) = PostsSettings.model_validate({"preset": preset, "export": ["x"]}).sources
    assert source.preset == preset
    given = {"rating_names": {"s": "q"}, "missing_score": -7, "html_entities": False}
    (source,) = PostsSettings.model_validate({"preset": preset, "export": ["x"], **given}).sources
    assert (source.rating_names["s"], source.missing_score, source.html_entities) == ("q", -7, False)


def test_a_column_of_tags_that_is_set_replaces_the_presets() -> None:
    (source,) = PostsSettings.model_validate(
        {"preset": "moebooru-api", "export": ["x"], "columns": {"tag_string_general": "words", "id": "no"}}
    ).sources
    assert source.columns.model_dump(exclude_unset=True) == {
        "tag_string_general": "words",
        "id": "no",
        "is_deleted": "status",
    }


def test_a_preset_that_is_not_known_is_an_error_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="'moebooru-api'"):
        PostsSettings.model_validate({"preset": "moebooru"})
