"""Posts of several sites in one table, and columns that an export lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.posts.identity import site_number, split_id
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.sources import load_aliases
from booru_embed_core.posts.validation import ExportError, TooManyRejectsError
from booru_embed_core.schema import Category
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, csv_bytes, read_rejects, read_rows, row

ALIASES = "tag,category,post_count,aliases\nlong_hair,0,5,longhair\n"
OTHER_ALIASES = "tag,category,post_count,aliases\nvery_long_hair,0,5,longhair\n"


def read(folder: Path, settings: dict[str, Any]) -> tuple[PostsReport, Path]:
    out = folder / f"out-{len(list(folder.iterdir()))}"
    out.mkdir()
    return read_export(PostsSettings.model_validate(settings), folder, out, ONE_THREAD), out


@pytest.fixture
def two_sites(tmp_path: Path) -> Path:
    (tmp_path / "a.csv").write_bytes(csv_bytes([row(1, "longhair"), row(2), row(3)]))
    lines = [{"ID": n, "rate": "s", "points": 4, "labels": "longhair, big hat"} for n in (1, 2, 3, 3)]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (tmp_path / "a-tags.csv").write_text(ALIASES, encoding="utf-8")
    (tmp_path / "b-tags.csv").write_text(OTHER_ALIASES, encoding="utf-8")
    return tmp_path


SOURCES = [
    {"site": "danbooru", "export": ["a.csv"], "aliases": "a-tags.csv"},
    {
        "site": "other",
        "export": ["b.jsonl"],
        "aliases": "b-tags.csv",
        "tag_separator": ",",
        "rating_names": {"s": "g"},
        "columns": {
            "id": "ID",
            "rating": "rate",
            "score": "points",
            "tag_string_general": "labels",
            **dict.fromkeys(
                ("tag_string_artist", "tag_string_copyright", "tag_string_character", "tag_string_meta"), ""
            ),
        },
    },
]


def test_ids_count_per_site_and_each_source_has_its_own_conventions(two_sites: Path) -> None:
    report, out = read(two_sites, {"source": SOURCES})
    assert (report.num_read, report.num_kept, report.num_duplicate, report.reconciles) == (7, 6, 1, True)
    assert report.sites == {"danbooru": site_number("danbooru"), "other": site_number("other")}
    rows = read_rows(out)
    ids = [split_id(int(str(post["id"]))) for post in rows]
    assert ids == [(site_number(site), number) for site in ("danbooru", "other") for number in (1, 2, 3)]
    assert [post["rating"] for post in rows[3:]] == ["g"] * 3
    assert [post["tag_string_general"] for post in (rows[0], rows[3])] == ["long_hair", "very_long_hair big_hat"]
    assert report.num_aliases == 4
    assert [(reject["file"], reject["line"]) for reject in read_rejects(out)] == [("b.jsonl", 4)]
    assert report.overlaps == []


def test_one_source_has_the_ids_of_its_site_whatever_its_place(two_sites: Path) -> None:
    _, both = read(two_sites, {"source": SOURCES})
    _, turned = read(two_sites, {"source": SOURCES[::-1]})
    assert read_rows(both) == read_rows(turned)[3:] + read_rows(turned)[:3]


def test_without_sites_an_overlap_of_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(csv_bytes([row(1), row(1), *(row(number) for number in range(2, 200))]))
    (tmp_path / "b.csv").write_bytes(csv_bytes([row(number) for number in range(198, 300)]))
    report, _ = read(tmp_path, {"export": ["*.csv"]})
    assert [counts.num_duplicate_of_other_files for counts in report.files] == [0, 2]
    assert [counts.num_duplicate for counts in report.files] == [1, 2]
    (overlap,) = report.overlaps
    assert overlap.startswith("b.csv: 2 of 102 posts have the id of a post in an earlier file")
    assert "[[posts.source]]" in overlap
    (tmp_path / "b.csv").write_bytes(csv_bytes([row(number) for number in range(199, 300)]))
    report, _ = read(tmp_path, {"export": ["*.csv"]})
    assert report.overlaps == []


def test_an_id_that_leaves_no_room_for_the_site_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(csv_bytes([row(2**50 - 1), row(2**50), row(-1)]))
    report, out = read(tmp_path, {"source": [{"site": "a", "export": ["a.csv"]}], "max_rejected_share": 0.9})
    assert (report.num_kept, report.num_rejected) == (1, 2)
    assert str(read_rejects(out)[0]["reason"]).startswith("id '1125899906842624' is not a whole number from 0 to 1125")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"export": ["a.csv"], "source": [{"site": "a", "export": ["a.csv"]}]}, "export is set beside"),
        ({"source": [{"site": "a"}]}, r"\[\[posts.source\]\] 1 names no export"),
        ({"source": [{"export": ["a"]}, {"site": "a", "export": ["a"]}]}, r"\[\[posts.source\]\] 1 has no site"),
        ({"source": [{"site": "A b", "export": ["a"]}]}, "site"),
    ],
)
def test_sources_that_say_too_little_or_too_much_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PostsSettings.model_validate(settings)


def test_what_posts_gives_holds_for_all_sources_that_do_not_give_it() -> None:
    settings = PostsSettings.model_validate(
        {
            "tag_separator": ",",
            "columns": {"score": "points"},
            "source": [{"site": "a", "export": ["a"], "tag_separator": " "}, {"site": "b", "export": ["b"]}],
        }
    )
    assert [source.tag_separator for source in settings.sources] == [" ", ","]
    assert [source.columns.score for source in settings.sources] == ["points", "points"]
    assert [source.export for source in settings.sources] == [("a",), ("b",)]


def test_the_old_names_of_all_sources_are_known(two_sites: Path) -> None:
    settings = PostsSettings.model_validate({"source": SOURCES})
    assert load_aliases(settings, two_sites) == {Category.GENERAL: {"longhair": "long_hair"}}
    assert load_aliases(PostsSettings(), two_sites) == {}


def test_columns_that_an_export_lacks_have_the_values_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("tag_string_general,tag_string_artist\na b,c\nd,\n", encoding="utf-8")
    lacking = dict.fromkeys(("tag_string_copyright", "tag_string_character", "tag_string_meta"), "")
    settings = {"export": ["a.csv"], "missing_id": "row", "missing_rating": "q", "missing_score": -3}
    report, out = read(tmp_path, {**settings, "columns": lacking})
    assert report.num_kept == 2
    rows = read_rows(out)
    assert [(post["rating"], post["score"], post["tag_string_general"]) for post in rows] == [
        ("q", -3, "a b"),
        ("q", -3, "d"),
    ]
    ids = [post["id"] for post in rows]
    assert len(set(ids)) == 2
    _, again = read(tmp_path, {**settings, "columns": lacking})
    assert [post["id"] for post in read_rows(again)] == ids


def test_each_column_that_is_missing_is_named_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("tag_string_general\na b\n", encoding="utf-8")
    with pytest.raises(ExportError) as caught:
        read(tmp_path, {"export": ["a.csv"]})
    for setting in ("missing_id", "missing_rating", "missing_score"):
        assert f"set [posts] {setting} if there is none" in str(caught.value)


def test_empty_values_take_those_of_the_settings_and_others_are_rejected(tmp_path: Path) -> None:
    lines = ["1,g,,a", "2,,5,a", "3,NaN,\\N,a", "4,x,1,a", "5,g,y,a"]
    (tmp_path / "a.csv").write_text("\n".join(["id,rating,score,tag_string", *lines, ""]), encoding="utf-8")
    (tmp_path / "tags.csv").write_text("tag,category\na,1\n", encoding="utf-8")
    settings = {"export": ["a.csv"], "tag_categories": "tags.csv", "max_rejected_share": 0.9}
    report, out = read(tmp_path, {**settings, "missing_rating": "s", "missing_score": 0})
    assert [(post["id"], post["rating"], post["score"]) for post in read_rows(out)] == [
        (1, "g", 0),
        (2, "s", 5),
        (3, "s", 0),
    ]
    assert report.num_rejected == 2
    with pytest.raises(TooManyRejectsError, match=r"score is missing; set \[posts\] missing_score"):
        read(tmp_path, settings)


def test_a_status_tells_what_is_deleted(tmp_path: Path) -> None:
    rows = [{"id": n, "rating": "s", "score": 1, "tags": "a", "status": word} for n, word in enumerate(WORDS)]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "tags.csv").write_text("tag,category\na,1\n", encoding="utf-8")
    settings = {"export": ["a.json"], "tag_categories": "tags.csv", "columns": {"is_deleted": "status"}}
    report, out = read(tmp_path, {**settings, "max_rejected_share": 0.9})
    assert (report.num_kept, report.num_filtered, report.num_rejected) == (3, 1, 1)
    assert "set [posts.true_values] is_deleted" in str(read_rejects(out)[0]["reason"])
    report, _ = read(tmp_path, {**settings, "true_values": {"is_deleted": ["gone", "pending"]}})
    assert (report.num_kept, report.num_filtered, report.num_rejected) == (3, 2, 0)


WORDS = ["active", "pending", "deleted", "gone", None]
