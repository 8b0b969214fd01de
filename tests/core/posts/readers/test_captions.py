"""Captions: folders and archives of text files, through `read_posts`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.identity import hashed_ids
from booru_embed_core.posts.read_export import read_export as read_the_export
from booru_embed_core.posts.readers import captions as captions_module
from booru_embed_core.posts.readers.base import ExportPath
from booru_embed_core.posts.readers.captions import CaptionReader
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.settings import DuckdbSettings, PostsSettings
from tests.core.cli_helpers import Run
from tests.core.posts.readers.files_helpers import (
    ReadFiles,
    posts_of,
    read_rejects,
    tags_of,
    tar_of,
    write,
    zip_of,
)


def test_captions_of_a_folder_are_posts_whose_ids_follow_from_their_paths(
    tmp_path: Path, read_files: ReadFiles
) -> None:
    folder = write(
        tmp_path / "train",
        {
            "10_miku/b.txt": "1girl, long hair, hatsune miku \\(vocaloid\\)\n",
            "10_miku/b.png": b"\x89PNG",
            "10_miku/a.caption": "solo,book,",
            "z.TXT": "\ufeffsolo",
            "Z.txt": "",
        },
    )
    report, out_dir = read_files(folder)
    assert posts_of(out_dir) == {
        "10_miku/a.caption": {"rating": "g", "score": 0, "general": ["solo", "book"]},
        "10_miku/b.txt": {"rating": "g", "score": 0, "general": ["1girl", "long_hair", "hatsune_miku_(vocaloid)"]},
        "Z.txt": {"rating": "g", "score": 0},
        "z.TXT": {"rating": "g", "score": 0, "general": ["solo"]},
    }
    paths = pq.read_table(out_dir / "paths.parquet")
    assert paths["id"].to_pylist() == hashed_ids(paths["path"].to_pylist()).tolist()
    assert report.num_kept == 4
    moved = folder.rename(tmp_path / "moved")
    assert posts_of(read_files(moved)[1]) == posts_of(out_dir)
    assert pq.read_table(read_files(moved)[1] / "paths.parquet").equals(paths)


@pytest.mark.parametrize(
    ("captions", "separator", "expected"),
    [
        (
            {"a.txt": "long hair, book", "b.txt": "long hair"},
            ",",
            {"a.txt": ["long_hair", "book"], "b.txt": ["long_hair"]},
        ),
        ({"a.txt": "long_hair book", "b.txt": "solo"}, " ", {"a.txt": ["long_hair", "book"], "b.txt": ["solo"]}),
        (
            {"a.jpg.txt": "long hair\r\nbook\r\n\r\n", "b.jpg.txt": "red eyes\n"},
            "\n",
            {"a.jpg.txt": ["long_hair", "book"], "b.jpg.txt": ["red_eyes"]},
        ),
        # sd-scripts takes one line of several; here all tags of the image count, each once.
        ({"a.txt": "1girl, red eyes\n1girl, solo\n"}, ",", {"a.txt": ["1girl", "red_eyes", "solo"]}),
    ],
)
def test_the_separator_is_found_out_from_the_first_captions(
    tmp_path: Path, read_files: ReadFiles, captions: dict[str, str], separator: str, expected: dict[str, list[str]]
) -> None:
    report, out_dir = read_files(write(tmp_path / "captions", captions))
    assert tags_of(out_dir) == expected
    assert report.files[0].tag_separator == separator


def test_kohya_and_hydrus_say_what_separates_the_tags_of_a_single_one(tmp_path: Path, read_files: ReadFiles) -> None:
    folder = write(tmp_path / "captions", {"a.txt": "blue sky"})
    for preset in ("kohya", "hydrus"):
        assert tags_of(read_files(folder, preset=preset)[1]) == {"a.txt": ["blue_sky"]}
    assert tags_of(read_files(folder)[1]) == {"a.txt": ["blue", "sky"]}


HYDRUS = """creator:somebody
series:ore, twintail ni narimasu
character:hatsune miku
person:somebody else
meta:highres
medium:sketch
rating:explicit
title:a title
:d
re:zero
blue sky
"""


def test_namespaces_of_hydrus_are_categories(tmp_path: Path, read_files: ReadFiles) -> None:
    folder = write(
        tmp_path / "hydrus",
        {"a.jpg.txt": HYDRUS, "a.jpg": b"", "b.png.txt": "Rating:safe\nsolo", "c.png.txt": "clothing:red dress\nsolo"},
    )
    report, out_dir = read_files(folder, preset="hydrus", category_numbers={"clothing": "general"})
    assert posts_of(out_dir) == {
        "a.jpg.txt": {
            "rating": "e",
            "score": 0,
            "general": ["title:a_title", ":d", "re:zero", "blue_sky"],
            "artist": ["somebody"],
            "copyright": ["ore,_twintail_ni_narimasu"],
            "character": ["hatsune_miku", "somebody_else"],
            "meta": ["highres", "sketch"],
        },
        "b.png.txt": {"rating": "g", "score": 0, "general": ["solo"]},
        "c.png.txt": {"rating": "g", "score": 0, "general": ["red_dress", "solo"]},
    }
    assert report.files[0].other_namespaces == {"title": 1, "re": 1}


def test_namespaces_between_commas_and_spaces(tmp_path: Path, read_files: ReadFiles) -> None:
    folder = write(tmp_path / "commas", {"a.txt": "artist:some one \\(x\\), :d, rating:q, long hair", "b.txt": "a, b"})
    _, out_dir = read_files(folder)
    assert posts_of(out_dir)["a.txt"] == {
        "rating": "q",
        "score": 0,
        "general": [":d", "long_hair"],
        "artist": ["some_one_(x)"],
    }
    folder = write(tmp_path / "spaces", {"a.txt": "artist:some_one :d rating:q long_hair"})
    assert posts_of(read_files(folder)[1])["a.txt"]["artist"] == ["some_one"]


def test_of_several_ratings_the_most_explicit_counts_and_an_unknown_one_is_rejected(
    tmp_path: Path, read_files: ReadFiles
) -> None:
    ratings = {"a": "rating:safe\nrating:general\nrating:explicit\nx", "b": "rating:safe\nx", "c": "rating:r-18\nx"}
    folder = write(tmp_path / "captions", {f"{name}.txt": text for name, text in ratings.items()})
    report, out_dir = read_files(folder)
    assert {path: post["rating"] for path, post in posts_of(out_dir).items()} == {"a.txt": "e"}
    assert [(line, reason[:28], raw[:13]) for line, reason, raw in read_rejects(out_dir)] == [
        (2, "b.txt: rating 'safe' is not ", "b.txt: rating"),
        (3, "c.txt: rating 'r-18' is not ", "c.txt: rating"),
    ]
    report, _ = read_files(folder, rating_names={"safe": "g", "r-18": "e"})
    assert report.num_kept == 3


def test_a_table_of_tags_gives_the_categories_of_tags_without_a_namespace(
    tmp_path: Path, read_files: ReadFiles
) -> None:
    table = write(tmp_path, {"tags.csv": "tag,category\nhatsune_miku,4\nvocaloid,3\nlong_hair,0\n"}) / "tags.csv"
    folder = write(tmp_path / "captions", {"a.txt": "hatsune miku, long hair, artist:somebody, unheard of, vocaloid"})
    report, out_dir = read_files(folder, tag_categories=table)
    assert posts_of(out_dir)["a.txt"] == {
        "rating": "g",
        "score": 0,
        "general": ["long_hair", "unheard_of"],
        "artist": ["somebody"],
        "copyright": ["vocaloid"],
        "character": ["hatsune_miku"],
    }
    assert report.num_unknown_tags == 1


def test_each_invalid_caption_is_set_aside_by_name(
    tmp_path: Path, read_files: ReadFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions_module, "_FIRST_BATCH", 2)
    bad = {
        "b.txt": "caf\u00e9, x".encode("latin-1"),
        "d.txt": "a, b".encode("utf-16"),
        "f.txt": b"a\0b",
        "h.txt": b"x" * (2**20 + 1),
    }
    good = {f"{name}.txt": f"tag {name}, x" for name in "acegik"}
    report, out_dir = read_files(write(tmp_path / "captions", {**good, **bad}))
    assert list(posts_of(out_dir)) == sorted(good)
    rejects = read_rejects(out_dir)
    assert [line for line, _, _ in rejects] == [2, 4, 6, 8]
    assert [reason.split(";")[0] for _, reason, _ in rejects] == [
        "b.txt: not UTF-8: byte 0xe9 at position 3",
        "d.txt: not UTF-8: byte 0xff at position 0",
        "f.txt: not text: a NUL byte",
        "h.txt: the line is longer than 1048576 bytes",
    ]
    assert rejects[0][2] == "b.txt: caf\\xe9, x"
    assert (report.num_read, report.num_kept, report.num_rejected) == (10, 6, 4)
    report, out_dir = read_files(tmp_path / "captions", limit_posts=3)
    assert (report.num_read, report.num_kept, report.num_rejected) == (5, 3, 2)


def test_a_comma_in_captions_with_spaces_is_named(tmp_path: Path, read_files: ReadFiles) -> None:
    texts = {f"{name}.txt": f"long_hair solo {name}" for name in "abcd"}
    report, out_dir = read_files(write(tmp_path / "captions", {**texts, "e.txt": "long_hair, solo"}))
    ((line, reason, raw),) = read_rejects(out_dir)
    assert (line, raw) == (5, "e.txt: long_hair, solo")
    assert "a comma inside tag_string: 'long_hair,'; set [posts] tag_separator" in reason
    assert report.num_kept == 4


def test_of_several_texts_of_an_image_one_is_read_and_the_rest_is_named(tmp_path: Path, read_files: ReadFiles) -> None:
    folder = write(
        tmp_path / "train",
        {
            **dict.fromkeys(("a.jpg", "b.png", "c.webp", "bare.jpg", "readme.jpg"), b""),
            "a.txt": "tags, of a",
            "a.caption": "A sentence about a.",
            "b.png.txt": "tags, of b",
            "b.caption": "A sentence about b.",
            "b.png.urls.txt": "https://x",
            "c.tags": "tags, of c",
            "README.txt": "All about it.",
            "LICENSE": "",
            "readme.txt": "an image, called so",
            "meta_cap.json": "{}",
            ".hidden.txt": "x",
            ".ipynb_checkpoints/a.txt": "x",
            "__MACOSX/._a.txt": "x",
        },
    )
    report, out_dir = read_files(folder)
    assert list(tags_of(out_dir)) == ["a.txt", "b.png.txt", "c.tags", "readme.txt"]
    assert sorted(report.left_out) == [
        "train/.hidden.txt",
        "train/.ipynb_checkpoints/",
        "train/LICENSE",
        "train/README.txt",
        "train/__MACOSX/",
        "train/a.caption",
        "train/b.caption",
        "train/b.png.urls.txt",
        "train/meta_cap.json",
        "train: 1 images without a caption",
    ]


def test_links_are_followed_within_the_folder_alone(tmp_path: Path, read_files: ReadFiles) -> None:
    folder = write(tmp_path / "train", {"a.txt": "a, b", "sub/b.txt": "b, c"})
    outside = write(tmp_path / "outside", {"secret.txt": "s"})
    (folder / "c.txt").symlink_to("sub/b.txt")
    (folder / "out.txt").symlink_to(outside / "secret.txt")
    (folder / "broken.txt").symlink_to("nothing")
    (folder / "loop").symlink_to(folder)
    (folder / "dir").symlink_to(outside)
    os.mkfifo(folder / "pipe.txt")
    report, out_dir = read_files(folder)
    assert list(tags_of(out_dir)) == ["a.txt", "c.txt", "sub/b.txt"]
    assert report.left_out == tuple(f"train/{name}" for name in ("broken.txt", "dir", "loop", "out.txt", "pipe.txt"))


def test_a_snapshot_in_the_cache_of_the_hub_is_links_to_its_blobs(tmp_path: Path, read_files: ReadFiles) -> None:
    hub = write(tmp_path / "datasets--x--y", {"blobs/1": "a, b", "blobs/2": "c, d"})
    snapshot = hub / "snapshots" / "0123"
    (snapshot / "sub").mkdir(parents=True)
    (snapshot / "a.txt").symlink_to("../../blobs/1")
    (snapshot / "sub" / "b.txt").symlink_to("../../../blobs/2")
    assert tags_of(read_files(snapshot)[1]) == {"a.txt": ["a", "b"], "sub/b.txt": ["c", "d"]}


def test_two_folders_may_have_files_of_one_name(tmp_path: Path, read_files: ReadFiles) -> None:
    first = write(tmp_path / "sets" / "one", {"a.txt": "a, b"})
    second = write(tmp_path / "sets" / "two", {"a.txt": "c, d"})
    report, out_dir = read_files(first, second)
    assert tags_of(out_dir) == {"one/a.txt": ["a", "b"], "two/a.txt": ["c", "d"]}
    assert (report.num_kept, report.num_duplicate) == (2, 0)


def test_names_that_are_no_text_or_hold_odd_characters(tmp_path: Path, read_files: ReadFiles) -> None:
    folder = tmp_path / "set [1] * ? {x} 'y'"
    folder.mkdir()
    for name in (b"\xff.txt", "\u3042\u3000\u3044.txt".encode(), b"new\nline.txt", b"[a].txt"):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(b"x, y")
    assert list(tags_of(read_files(folder)[1])) == [
        "[a].txt",
        "new\\x0aline.txt",
        "\u3042\u3000\u3044.txt",
        "\\xff.txt",
    ]


def test_paths_are_in_the_order_of_their_bytes(tmp_path: Path, read_files: ReadFiles) -> None:
    names = ["a.txt", "a/b.txt", "a-b.txt", "a/a/c.txt", "B.txt", "a0.txt", "\u00e9.txt", "z.txt"]
    _, out_dir = read_files(write(tmp_path / "captions", dict.fromkeys(names, "x, y")))
    assert list(tags_of(out_dir)) == sorted(names, key=str.encode)


def test_batches_are_bounded_and_give_the_same_bytes(
    tmp_path: Path, read_files: ReadFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "captions", {f"{number:03}.txt": f"tag {number}, x" for number in range(50)})
    _, whole = read_files(folder)
    monkeypatch.setattr(captions_module, "_FIRST_BATCH", 3)
    monkeypatch.setattr(captions_module, "_BATCH_BYTES", 500)
    sizes: list[int] = []
    batch = captions_module.CaptionReader._batch

    def counted(reader: captions_module.CaptionReader, captions: list[object]) -> object:
        sizes.append(len(captions))
        return batch(reader, captions)  # type: ignore[arg-type]

    monkeypatch.setattr(captions_module.CaptionReader, "_batch", counted)
    _, cut = read_files(folder)
    assert max(sizes) < 10
    assert tags_of(cut) == tags_of(whole)


def test_the_bytes_are_the_same_for_any_number_of_threads(tmp_path: Path) -> None:
    folder = write(tmp_path / "captions", {f"{n}.txt": f"tag {n}, artist:a{n % 7}, x" for n in range(300)})
    values = PostsSettings(export=(str(folder),), preset="caption-folder")
    sums = []
    for threads in (1, 2):
        (out_dir := tmp_path / str(threads)).mkdir()
        read_the_export(values, tmp_path, out_dir, DuckdbSettings(threads=threads))
        sums.append((out_dir / "manifest.json").read_bytes())
        assert b"paths.parquet" in sums[-1]
    assert sums[0] == sums[1]


def test_without_settings_the_error_tells_what_is_there_and_what_to_set(tmp_path: Path, read_files: ReadFiles) -> None:
    folder = write(tmp_path / "captions", {"a.txt": "a, b", "b.txt": "c", "README.md": ""})
    with pytest.raises(ExportError) as raised:
        read_files(folder, preset=None)
    assert str(raised.value) == (
        f"{folder}: holds 2 captions, such as a.txt, without a rating and a score; set [posts] preset to "
        "'caption-folder', which takes g and 0 for all, or [posts] missing_rating and [posts] missing_score"
    )
    with pytest.raises(ExportError, match=r"without a rating; .* or \[posts\] missing_rating$"):
        read_files(folder, preset=None, missing_score=0)
    write(folder, {"a.txt": "a, rating:s"})
    report, _ = read_files(folder, preset=None, missing_score=0)
    assert (report.num_kept, report.num_rejected) == (1, 1)


@pytest.mark.parametrize(
    "files",
    [
        {"a.jpg": b"", "b.jpg": b""},
        {"README.txt": "x", "a.jpg": b""},
        {"posts.txt": "id,rating,score,tag_string\n1,g,2,a b\n"},
        {"posts.txt": '{"id": 1}\n'},
        {"a.jpg": b"", "a.txt": "x, y", "posts.parquet": b"PAR1"},
        {"a.jpg": b"", "a.txt": "x, y", "posts.csv": "id,rating,score,tag_string\n"},
        {"a.jpg": b"", "a.txt": "x, y", "posts.tsv": "post_id\trate\ttags\n"},
        {"a.jpg": b"", "a.txt": "x, y", "posts.csv.gz": b""},
        {"metadata.csv": "file,text\n", "words.txt": "x"},
        {"dump.json": "{}", "words.txt": "x"},
    ],
)
def test_other_folders_are_no_captions(tmp_path: Path, files: dict[str, str | bytes]) -> None:
    folder = write(tmp_path / "folder", files)
    assert not CaptionReader.opens(ExportPath(folder))


def test_a_list_of_tags_beside_captions_of_images_is_left_out(tmp_path: Path, read_files: ReadFiles) -> None:
    tags = "tag_id,name,category,count\n1,x,0,2\n"
    folder = write(tmp_path / "train", {"a.jpg": b"", "a.txt": "x, y", "selected_tags.csv": tags})
    report, out_dir = read_files(folder)
    assert tags_of(out_dir) == {"a.txt": ["x", "y"]}
    assert report.left_out == ("train/selected_tags.csv",)


SHARD: dict[str, str | bytes] = {
    "./000001.jpg": b"\xff\xd8" * 5000,
    "./000001.txt": "1girl, long hair",
    "./000002.JPG": b"\xff\xd8",
    "./000002.TXT": "solo, book",
    "./000003.webp": b"\0",
    "./000003.caption": "A sentence.",
    "./000003.txt": b"\xff",
    "./README.txt": "About it",
    "./000004.txt": "",
    "./000004.cls": "7",
}


@pytest.mark.parametrize(
    "pack", [tar_of, lambda files: tar_of(files, "w:gz"), lambda files: tar_of(files, "w:xz"), zip_of]
)
def test_archives_of_captions_are_read_in_their_order(
    tmp_path: Path, read_files: ReadFiles, pack: Callable[[Mapping[str, str | bytes]], bytes]
) -> None:
    shard = tmp_path / "00000.tar"
    shard.write_bytes(pack(SHARD))
    report, out_dir = read_files(shard)
    assert tags_of(out_dir) == {
        "000001.txt": ["1girl", "long_hair"],
        "000002.TXT": ["solo", "book"],
        "000004.txt": [],
    }
    assert [(line, reason[:21]) for line, reason, _ in read_rejects(out_dir)] == [(3, "000003.txt: not UTF-8")]
    assert report.left_out == tuple(f"00000.tar/./{name}" for name in ("000003.caption", "README.txt", "000004.cls"))


def test_shards_may_have_members_of_one_name(tmp_path: Path, read_files: ReadFiles) -> None:
    for number in range(2):
        (tmp_path / f"{number}.tar").write_bytes(tar_of({"a.jpg": b"", "a.txt": f"tag {number}, x"}))
    report, out_dir = read_files(tmp_path / "0.tar", tmp_path / "1.tar")
    assert tags_of(out_dir) == {"0.tar/a.txt": ["tag_0", "x"], "1.tar/a.txt": ["tag_1", "x"]}
    assert report.num_duplicate == 0


def test_a_broken_shard_is_named(tmp_path: Path, read_files: ReadFiles) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(tar_of({f"{number}.txt": "a, b" for number in range(30)})[:20_000])
    with pytest.raises(ExportError, match=r"0\.tar: the archive is broken"):
        read_files(shard)


def test_an_archive_of_posts_is_no_captions(tmp_path: Path, read_files: ReadFiles) -> None:
    posts = "id,rating,score,tag_string_general\n1,g,2,a b\n"
    archive = tmp_path / "dump.tar.gz"
    archive.write_bytes(tar_of({"NOTES.txt": "x", "words.txt": "x", "posts.csv": posts}, "w:gz"))
    columns = {f"tag_string_{category}": "" for category in CATEGORIES if category is not Category.GENERAL}
    report, _ = read_files(archive, preset=None, columns=columns)
    assert (report.num_kept, report.files[0].file) == (1, "dump.tar.gz/posts.csv")


def test_a_single_caption_is_told_to_be_read_with_its_folder(tmp_path: Path, read_files: ReadFiles) -> None:
    folder = write(tmp_path / "captions", {"a.txt": "long hair, book", "b.caption": "x"})
    for name in ("a.txt", "b.caption"):
        with pytest.raises(ExportError, match=r"is no table of posts; if it is a caption, set \[posts\] export"):
            read_files(folder / name)
    table = write(tmp_path, {"posts.txt": "id,rating,tag_string\n1,g,a\n"}) / "posts.txt"
    with pytest.raises(ExportError, match="wrong columns"):
        read_files(table, preset=None)


def test_ingest_reads_a_folder_with_a_preset(tmp_path: Path, run: Run) -> None:
    folder = write(tmp_path / "captions", {"a.txt": "a, b", "b.txt": "c"})
    failed = run("ingest", folder, "--out", tmp_path / "out")
    assert failed.code != 0
    assert "set --preset to 'caption-folder'" in failed.err
    done = run("ingest", folder, "--preset", "caption-folder", "--out", tmp_path / "out")
    assert (done.code, "2 posts read, 2 kept" in done.out) == (0, True)


texts = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), max_size=40)


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    captions=st.dictionaries(st.integers(0, 30), texts | st.binary(max_size=30), min_size=1),
    preset=st.sampled_from(["caption-folder", "kohya", "hydrus"]),
)
def test_any_texts_reconcile(
    tmp_path_factory: pytest.TempPathFactory, captions: dict[int, str | bytes], preset: str
) -> None:
    root = tmp_path_factory.mktemp("captions")
    folder = write(
        root / "train", {"a.jpg": b"", "a.txt": "x", **{f"{name}.txt": text for name, text in captions.items()}}
    )
    (root / "out").mkdir()
    values = {"export": (str(folder),), "preset": preset, "max_rejected_share": 0.999}
    report = read_the_export(PostsSettings.model_validate(values), root, root / "out", DuckdbSettings(threads=1))
    assert report.reconciles
    assert report.num_read == len(captions) + 1
    assert report.num_duplicate == 0
