"""kohya's metadata: tags and captions by the paths of images, through `read_posts`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from booru_embed_core.posts.readers.base import ExportPath
from booru_embed_core.posts.readers.kohya import KohyaReader
from booru_embed_core.posts.validation import ExportError
from tests.core.posts.readers.files_helpers import ReadFiles, posts_of, read_rejects, tags_of, write

METADATA: dict[str, object] = {
    "/data/10_miku/b": {
        "caption": "a girl, in a dress",
        "tags": "1girl, long hair, hatsune miku \\(vocaloid\\)",
        "train_resolution": [512, 768],
    },
    "a": {"tags": "solo"},
    "c": {"caption": "book"},
    "d": {},
    "e": {"tags": ["x"]},
    "f": "x",
    "a\u00e9": {"tags": "artist:some one, y"},
}


@pytest.mark.parametrize("indent", [None, 2])
def test_tags_are_read_and_captions_where_there_are_none(
    tmp_path: Path, read_files: ReadFiles, indent: int | None
) -> None:
    file = tmp_path / "meta_lat.json"
    file.write_text(json.dumps(METADATA, indent=indent), encoding="utf-8")
    report, out_dir = read_files(file, preset="kohya")
    assert tags_of(out_dir) == {
        "/data/10_miku/b": ["1girl", "long_hair", "hatsune_miku_(vocaloid)"],
        "a": ["solo"],
        "c": ["book"],
        "d": [],
        "a\u00e9": ["y"],
    }
    assert posts_of(out_dir)["a\u00e9"]["artist"] == ["some_one"]
    assert read_rejects(out_dir) == [
        (5, 'e: its tags are not text: ["x"]', "e: "),
        (6, 'f: is not an object: "x"', "f: "),
    ]
    assert report.left_out == ("meta_lat.json: 1 captions of images that have tags",)


def test_it_may_be_packed_and_lie_in_a_folder_of_images(tmp_path: Path, read_files: ReadFiles) -> None:
    packed = gzip.compress(b"\xef\xbb\xbf" + json.dumps({"a": {"tags": "x, y"}}).encode())
    folder = write(tmp_path / "train", {"meta_cap.json.gz": packed, "a.png": b""})
    assert tags_of(read_files(folder, preset="kohya")[1]) == {"a": ["x", "y"]}


def test_text_that_is_cut_is_named(tmp_path: Path, read_files: ReadFiles) -> None:
    file = tmp_path / "meta_cap.json"
    file.write_text(json.dumps(METADATA)[:-30], encoding="utf-8")
    with pytest.raises(ExportError, match=r"meta_cap\.json: not JSON behind its image 6 \(.*\); write the file again"):
        read_files(file, preset="kohya")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": {"caption": "x"}}', True),
        ('{"a": {}, "b": {"tags": "x"}, "c": {"ta', True),
        ('{"a": {}}', False),
        ('{"id": 1, "tags": {"general": []}}', False),
        ('{"tags": {"general": []}}', False),
        ('{"post": {"id": 1, "tags": "x"}}', False),
        ("{", False),
        ("x", False),
    ],
)
def test_other_json_is_another_format(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert KohyaReader.opens(ExportPath(tmp_path / "a.json")) == expected
