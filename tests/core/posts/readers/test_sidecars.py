"""Sidecars: one JSON object a post, as gallery-dl and Hydrus write them, through `read_posts`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.posts.identity import hashed_ids
from booru_embed_core.posts.readers import sidecars as sidecars_module
from booru_embed_core.posts.readers.base import ExportPath
from booru_embed_core.posts.readers.sidecars import SidecarReader, TagSidecarReader
from booru_embed_core.posts.validation import ExportError
from tests.core.cli_helpers import Run
from tests.core.posts.readers.files_helpers import ReadFiles, posts_of, read_rejects, tags_of, tar_of, write, zip_of


def danbooru(post_id: object, general: str, **others: object) -> str:
    """What ``gallery-dl --write-metadata`` writes for a post of Danbooru."""
    post: dict[str, object] = {
        "category": "danbooru",
        "id": post_id,
        "rating": "s",
        "score": 29,
        "tag_string": f"{general} hatsune_miku highres",
        "tag_string_general": general,
        "tag_string_character": "hatsune_miku",
        "tag_string_copyright": "",
        "tag_string_artist": "",
        "tag_string_meta": "highres",
        "is_deleted": False,
        "media_asset": {"id": 1, "variants": [{"type": "180x180"}]},
        "tags": [*general.split(), "hatsune_miku", "highres"],
        "tags_general": general.split(),
        "source": "\u3042",
    }
    return json.dumps({**post, **others}, ensure_ascii=False, indent=4) + "\n"


def test_sidecars_of_gallery_dl_are_posts_with_their_own_ids(tmp_path: Path, read_files: ReadFiles) -> None:
    folder = write(
        tmp_path / "gallery-dl",
        {
            "danbooru/b_2.jpg.json": danbooru(2, "1girl solo"),
            "danbooru/b_2.jpg": b"",
            "danbooru/b_2.jpg.txt": "1girl\nsolo\n",
            "danbooru/a_3.png.json": danbooru(3, "book", is_deleted=True),
            "danbooru/bare.png": b"",
            "danbooru/c_1.zip": b"PK",
            "danbooru/c_1.zip.JSON": danbooru(1, ""),
            "danbooru/info.json": "{}",
        },
    )
    report, out_dir = read_files(folder, preset=None)
    assert posts_of(out_dir) == {
        "danbooru/b_2.jpg.json": {
            "rating": "s",
            "score": 29,
            "general": ["1girl", "solo"],
            "character": ["hatsune_miku"],
            "meta": ["highres"],
        },
        "danbooru/c_1.zip.JSON": {"rating": "s", "score": 29, "character": ["hatsune_miku"], "meta": ["highres"]},
    }
    assert [post["id"] for post in posts_of(out_dir, ids=True).values()] == [2, 1]
    assert (report.num_read, report.num_filtered) == (3, 1)
    assert report.left_out == (
        "gallery-dl/danbooru/b_2.jpg.txt",
        "gallery-dl/danbooru/c_1.zip",
        "gallery-dl/danbooru/info.json",
        "gallery-dl: 1 images without a caption",
    )


GELBOORU: dict[str, Any] = {
    "category": "gelbooru",
    "id": 7,
    "rating": "general",
    "tags": "1girl it&#039;s_over",
    "tags_general": ["1girl", "it&#039;s_over"],
    "tags_artist": ["some_one"],
    "tags_metadata": ["highres"],
}


@pytest.mark.parametrize("is_text", [False, True], ids=["lists", "texts"])
def test_the_preset_of_gallery_dl_takes_entities_back_and_needs_no_score(
    tmp_path: Path, read_files: ReadFiles, is_text: bool
) -> None:
    groups = {key: " ".join(value) for key, value in GELBOORU.items() if key.startswith("tags_")}
    post = {**GELBOORU, **groups, "tags_copyright": ""} if is_text else GELBOORU
    folder = write(tmp_path / "gelbooru", {"a.jpg.json": json.dumps(post, indent=4)})
    _, out_dir = read_files(folder, preset="gallery-dl")
    assert posts_of(out_dir)["a.jpg.json"] == {
        "rating": "g",
        "score": 0,
        "general": ["1girl", "it's_over"],
        "artist": ["some_one"],
        "meta": ["highres"],
    }


def test_groups_of_other_boorus_have_categories_and_unknown_ones_are_named(
    tmp_path: Path, read_files: ReadFiles
) -> None:
    sankaku = {
        "id": 1,
        "rating": "e",
        "tags": ["x"],
        "tag_string": "x y",
        "tags_studio": ["y"],
        "tag_string_studio": "y",
    }
    later = {"id": 2, "rating": "e", "tags_general": ["z"], "tags_weather": []}
    other = {"id": 3, "rating": "e", "tags": ["v"]}
    posts = {f"{n}.jpg.json": json.dumps(post) for n, post in enumerate((sankaku, later, other))}
    folder = write(tmp_path / "sankaku", posts)
    report, out_dir = read_files(folder, preset="gallery-dl")
    assert posts_of(out_dir) == {
        "0.jpg.json": {"rating": "e", "score": 0, "artist": ["y"]},
        "1.jpg.json": {"rating": "e", "score": 0, "general": ["z"]},
    }
    ((_, reason, _),) = read_rejects(out_dir)
    assert reason.startswith("2.jpg.json: tags without the keys tags_general and so on; write the sidecar again with")
    write(folder, {"1.jpg.json": json.dumps({**later, "tags_weather": ["rain"]})})
    with pytest.raises(ExportError, match=r"weather is a group of tags without a category; set \[posts"):
        read_files(folder, preset="gallery-dl")
    report, out_dir = read_files(folder, preset="gallery-dl", category_numbers={"weather": "general"})
    assert tags_of(out_dir)["1.jpg.json"] == ["z", "rain"]
    assert report.num_kept == 2


def test_sidecars_of_e621_have_nested_tags_scores_and_flags(tmp_path: Path, read_files: ReadFiles) -> None:
    post = {
        "id": 5,
        "rating": "s",
        "score": {"up": 3, "down": -1, "total": 2},
        "tags": {
            "general": ["solo"],
            "species": ["wolf"],
            "artist": ["x"],
            "lore": [],
            "invalid": [],
            "meta": ["hi_res"],
        },
        "flags": {"deleted": False},
    }
    deleted = {**post, "id": 6, "flags": {"deleted": True}}
    folder = write(tmp_path / "e621", {"5.json": json.dumps(post, indent=4), "6.json": json.dumps(deleted)})
    report, out_dir = read_files(folder, preset="e621-api")
    assert posts_of(out_dir) == {
        "5.json": {"rating": "g", "score": 2, "general": ["solo", "wolf"], "artist": ["x"], "meta": ["hi_res"]}
    }
    assert report.num_filtered == 1


def test_posts_without_an_id_get_one_by_the_path(tmp_path: Path, read_files: ReadFiles) -> None:
    posts = {f"{name}.jpg.json": json.dumps({"rating": "g", "tag_string_general": f"tag_{name}"}) for name in "ab"}
    folder = write(tmp_path / "captions", {**posts, "c.jpg.json": "{}", "d.jpg.json": "[]"})
    columns = {f"tag_string_{name}": "" for name in ("artist", "copyright", "character", "meta")}
    report, out_dir = read_files(folder, columns=columns)
    assert tags_of(out_dir) == {"a.jpg.json": ["tag_a"], "b.jpg.json": ["tag_b"], "c.jpg.json": []}
    ids = [post["id"] for post in posts_of(out_dir, ids=True).values()]
    assert ids == hashed_ids(["a.jpg.json", "b.jpg.json", "c.jpg.json"]).tolist()
    assert report.num_rejected == 1


def test_ids_that_are_no_numbers_can_be_left_to_the_paths(tmp_path: Path, read_files: ReadFiles) -> None:
    posts = {f"{name}.jpg.json": danbooru(f"wvae{name}", "solo") for name in "ab"}
    folder = write(tmp_path / "sankaku", posts)
    with pytest.raises(
        ExportError, match=r"sankaku: id 'wvaea' is no whole number; set \[posts.columns\] id = \"\" to"
    ):
        read_files(folder)
    report, _ = read_files(folder, columns={"id": ""})
    assert report.num_kept == 2


def test_each_invalid_sidecar_is_set_aside_by_name(
    tmp_path: Path, read_files: ReadFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecars_module, "_FIRST_BATCH", 2)
    monkeypatch.setattr(sidecars_module, "_BATCH_OBJECTS", 3)
    bad: Mapping[str, str | bytes] = {
        "b.jpg.json": danbooru(2, "x")[:-20],
        "d.jpg.json": danbooru(4, "x").encode("utf-16"),
        "f.jpg.json": danbooru("six", "x"),
        "h.jpg.json": danbooru(None, "x"),
        "j.jpg.json": danbooru(10, "x", tags_general=["\\ud83d y"]).replace("\\\\ud", "\\ud"),
        "l.jpg.json": "[1]",
        "n.jpg.json": "",
        "p.jpg.json": "[" * 100_000,
        "r.jpg.json": danbooru(18, "x", source="y" * 2**20),
    }
    good = {f"{name}.jpg.json": danbooru(number, "x", score=float("nan")) for number, name in enumerate("acegikmoqs")}
    report, out_dir = read_files(write(tmp_path / "sidecars", {**good, **bad}), missing_score=3)
    assert list(posts_of(out_dir)) == sorted(good)
    assert {post["score"] for post in posts_of(out_dir).values()} == {3}
    rejects = read_rejects(out_dir)
    assert [line for line, _, _ in rejects] == list(range(2, 20, 2))
    assert [reason[:44] for _, reason, _ in rejects] == [
        "b.jpg.json: not JSON: Expecting property nam",
        "d.jpg.json: not UTF-8: byte 0xff at position",
        "f.jpg.json: id 'six' is not a whole number f",
        "h.jpg.json: id is missing",
        "j.jpg.json: half of a surrogate pair in 'ags",
        "l.jpg.json: not a JSON object",
        "n.jpg.json: not JSON: Expecting value: line ",
        "p.jpg.json: not JSON that can be read: neste",
        "r.jpg.json: the line is longer than 1048576 ",
    ]
    assert rejects[5][2] == "l.jpg.json: [1]"
    assert report.num_kept == 10
    report, _ = read_files(tmp_path / "sidecars", missing_score=3, limit_posts=3)
    assert (report.num_read, report.num_kept, report.num_rejected) == (5, 3, 2)


HYDRUS = {"metadata": {"tags": ["creator:some one", "rating:explicit", "title:x", "blue sky"], "urls": ["https://x"]}}


def test_sidecars_of_hydrus_are_lists_of_tags(tmp_path: Path, read_files: ReadFiles) -> None:
    folder = write(
        tmp_path / "hydrus",
        {
            "a.jpg.json": json.dumps(HYDRUS, indent=4),
            "a.jpg": b"",
            "b.jpg.json": json.dumps({"metadata": {"tags": [], "urls": []}}),
            "c.jpg.json": json.dumps({"my tags": ["red eyes"], "downloader tags": ["red eyes", "solo"]}),
            "d.jpg.json": json.dumps({"metadata": {"urls": ["https://x"]}}),
            "e.jpg.json": "{",
            "f.jpg.json": '{"tags": ["x\\ud83d"]}',
        },
    )
    report, out_dir = read_files(folder, preset="hydrus")
    assert posts_of(out_dir) == {
        "a.jpg.json": {"rating": "e", "score": 0, "general": ["title:x", "blue_sky"], "artist": ["some_one"]},
        "b.jpg.json": {"rating": "g", "score": 0},
        "c.jpg.json": {"rating": "g", "score": 0, "general": ["red_eyes", "solo"]},
    }
    assert [reason[:37] for _, reason, _ in read_rejects(out_dir)] == [
        "d.jpg.json: no list of tags; found th",
        "e.jpg.json: not JSON: Expecting prope",
        "f.jpg.json: half of a surrogate pair ",
    ]
    assert report.files[0].other_namespaces == {"title": 1}
    _, out_dir = read_files(folder, preset="hydrus", columns={"tag_string": "my tags"})
    assert tags_of(out_dir) == {"c.jpg.json": ["red_eyes"]}


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_sidecars_in_a_shard(tmp_path: Path, read_files: ReadFiles, pack: Any) -> None:
    members = {
        f"{n}.{suffix}": danbooru(n, f"tag_{n}") if suffix == "json" else b""
        for n in range(5)
        for suffix in ("webp", "json")
    }
    shard = tmp_path / "0000.tar"
    shard.write_bytes(pack({**members, "9.txt": "left out", "README.md": ""}))
    report, out_dir = read_files(shard, preset=None)
    assert tags_of(out_dir) == {f"{n}.json": [f"tag_{n}"] for n in range(5)}
    assert report.left_out == ("0000.tar/9.txt", "0000.tar/README.md")
    shard.write_bytes(
        pack({"a.jpg": b"", "a.json": json.dumps({"tags": ["creator:x", "solo"]}), "b.json": '{"tags": []}'})
    )
    _, out_dir = read_files(shard)
    assert posts_of(out_dir)["a.json"] == {"rating": "g", "score": 0, "general": ["solo"], "artist": ["x"]}


def test_a_shard_whose_objects_have_no_tags_is_read_by_its_texts(tmp_path: Path, read_files: ReadFiles) -> None:
    shard = tmp_path / "0000.tar"
    shard.write_bytes(tar_of({"0.jpg": b"", "0.json": '{"key": "0", "url": "https://x"}', "0.txt": "solo, long hair"}))
    assert tags_of(read_files(shard)[1]) == {"0.txt": ["solo", "long_hair"]}


@pytest.mark.parametrize(
    ("files", "reader"),
    [
        ({"a.json": '{"id": 1, "tags": ["x"]}'}, SidecarReader),
        ({"a.jpg.json": '{"id": 1, "tags": ["x"]}', "posts.json": "[]"}, SidecarReader),
        ({"a.json": '{"tags": ["x"]}'}, TagSidecarReader),
        ({"posts.json": '{"id": 1, "tags": "x"}\n{"id": 2, "tags": "y"}\n'}, None),
        ({"posts.json": '{"posts": [{"id": 1, "tags": "x"}]}'}, None),
        ({"posts.json": '[{"id": 1, "tags": "x"}]'}, None),
        ({"a.json": '{"id": 1, "tags": "x"}', "posts.csv": ""}, None),
        ({"meta.json": '{"a.png": {"tags": "x, y"}}'}, None),
        ({"meta_cap.json": '{"a.png": {"tags": "x, y"}}'}, None),
        ({"a.jpg.json": '{"id": 1, "width": 3}'}, None),
        ({"dataset_infos.json": '{"default": {"features": {"tags": []}}}'}, None),
    ],
)
def test_folders_of_sidecars_are_told_from_others(tmp_path: Path, files: dict[str, str], reader: object) -> None:
    candidate = ExportPath(write(tmp_path / "folder", files))
    assert [one for one in (SidecarReader, TagSidecarReader) if one.opens(candidate)] == ([reader] if reader else [])


def test_ingest_reads_sidecars_as_they_come(tmp_path: Path, run: Run) -> None:
    folder = write(tmp_path / "gallery-dl", {f"{n}.jpg.json": danbooru(n, "solo") for n in range(1, 6)})
    done = run("ingest", folder, "--out", tmp_path / "out")
    assert (done.code, "5 posts read, 5 kept" in done.out) == (0, True)
