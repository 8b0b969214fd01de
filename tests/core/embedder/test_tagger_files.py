"""Scores of images in the forms of common tools, and files that hold none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.embedder.caption_files import CaptionFileError
from booru_embed_core.embedder.tagger_files import TaggedImage, read_selected_tags, tagged_images

SCORES = {"1girl": 0.99, "hat": 0.4}
GROUPS = {"rating": {"general": 0.8, "sensitive": 0.2}, "general": {"1girl": 0.99}, "character": {"miku": 0.7}}
IN_GROUPS = [("general", 0.8, "rating"), ("sensitive", 0.2, "rating"), ("1girl", 0.99, "general")]
IN_GROUPS.append(("miku", 0.7, "character"))
PLAIN = [("1girl", 0.99, None), ("hat", 0.4, None)]


def images(file: Path) -> list[TaggedImage]:
    return list(tagged_images(file, []))


def read(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {image.id: [tuple(score) for score in image.scores] for image in images(file)}


def written(folder: Path, name: str, content: Any) -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (SCORES, PLAIN),
        (GROUPS, IN_GROUPS),
        ([GROUPS["rating"], GROUPS["general"], GROUPS["character"]], IN_GROUPS),  # imgutils
        ([GROUPS["rating"], SCORES], [*IN_GROUPS[:2], *PLAIN]),
        ({"caption": {"tag": SCORES, "rating": {"general": 0.8}}}, [*PLAIN, ("general", 0.8, "rating")]),  # webui's API
        ({"label": "1girl", "confidences": [{"label": "1girl", "confidence": 0.99}]}, PLAIN[:1]),  # gradio
        ([{"tag": "1girl", "score": 0.99, "category": 0}], [("1girl", 0.99, "general")]),
        ({"tags": [["1girl", 0.99], ["hat", 0.4]]}, PLAIN),
        ({"tags": "1girl, (hat:0.4)", "caption": "A girl, with a hat."}, [("1girl", 1.0, None), PLAIN[1]]),
        ({"image_size": [8, 8], "tags": ["1girl, hat"]}, [("1girl", 1.0, None), ("hat", 1.0, None)]),  # kohya
        ({"rating": "general", "tags": "solo"}, [("general", 1.0, "rating"), ("solo", 1.0, None)]),
        ("1girl, :3\nhat (hat:1.2)", [("1girl", 1.0, None), (":3", 1.0, None), ("hat (hat:1.2)", 1.0, None)]),
        (r"(miku \(vocaloid\):0.5)", [(r"miku \(vocaloid\)", 0.5, None)]),
        ({}, []),
    ],
)
def test_an_image_is_read_in_each_form_of_json(tmp_path: Path, value: Any, found: list[Any]) -> None:
    assert read(written(tmp_path, "all.json", {"a/b.png": value, "c": {}})) == {"a/b.png": found, "c": []}
    line = json.dumps({"image": "b.png", "tags": value})
    if isinstance(value, dict) and "caption" not in value and value not in ({}, SCORES):
        line = json.dumps({"image": "b.png", **value})
    assert read(written(tmp_path, "all.jsonl", f"{line}\n\n")) == {"b.png": found}


def test_a_file_of_one_image_is_named_by_itself(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.json", GROUPS)) == {"a": IN_GROUPS}
    assert read(written(tmp_path, "b.json", SCORES)) == {"b": PLAIN}
    assert read(written(tmp_path, "b.json", {"tags": SCORES, "model": "wd"})) == {"b": PLAIN}
    assert read(written(tmp_path, "b.json", {"tags": SCORES, "filename": "x.png"})) == {"x.png": PLAIN}
    assert read(written(tmp_path, "c.txt", "\ufeff1girl, hat\n")) == {"c": [("1girl", 1, None), ("hat", 1, None)]}
    assert read(written(tmp_path, "d.csv", "name,category,count,score\n1girl,0,9,0.99\nsolo,9,1,.5\n")) == {
        "d": [("1girl", 0.99, "general"), ("solo", 0.5, "rating")]
    }


def test_metadata_and_databases_of_tools_are_read(tmp_path: Path) -> None:
    kohya = {"format_version": "1.0.0", "images": {"x.png": {"image_size": [1, 2], "tags": ["hat"]}}}
    assert read(written(tmp_path, "meta.json", kohya)) == {"x.png": [("hat", 1.0, None)]}
    database = {
        "query": {"1f": ["x.png", 0], "2f": ["y.png", 1]},
        "rating": {"general": [0.25, 1.75]},
        "tag": {"hat": [1.5], "solo": [1.0]},
    }
    assert read(written(tmp_path, "db.json", database)) == {
        "x.png": [("general", 0.25, "rating"), ("solo", 1.0, None)],
        "y.png": [("general", 0.75, "rating"), ("hat", 0.5, None)],
    }


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("image,tag,score\na,1girl,0.99\na,hat,0.4\n", {"a": PLAIN}),
        ("Path\tLabel\tConfidence\tCategory\na\tmiku\t0.7\t4\n", {"a": [("miku", 0.7, "character")]}),
        ('filename,tags\na,"1girl, hat"\nb,\n', {"a": [("1girl", 1, None), ("hat", 1, None)], "b": []}),
        ('filename,tags\na,"{""1girl"": 0.99, ""hat"": 0.4}"\n', {"a": PLAIN}),
        ("filename,tags\na,\"{'1girl': 0.99, 'hat': 0.4}\"\n", {"a": PLAIN}),  # pandas
        ("filename,tags\na,[brackets]\n", {"a": [("[brackets]", 1, None)]}),
        (
            'image,rating,general\na,general,"{""1girl"": 1}"\n',
            {"a": [("general", 1, "rating"), ("1girl", 1, "general")]},
        ),
        ("filename,1girl,hat\na,0.99,0.4\nb,,0\n", {"a": PLAIN, "b": [("hat", 0, None)]}),
    ],
)
def test_tables_have_a_row_for_each_tag_or_image(tmp_path: Path, content: str, found: Any) -> None:
    assert read(written(tmp_path, "t.tsv" if "\t" in content else "t.csv", content)) == found


def test_a_folder_has_a_file_beside_each_image(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.jpg", "none.webp", "sub/c.png"):
        (tmp_path / name).touch()
    written(tmp_path, "b.txt", "hat, solo")
    written(tmp_path, "b.json", GROUPS)  # it has scores
    written(tmp_path, "a.txt", "hat")
    written(tmp_path, "alone.txt", "solo")
    written(tmp_path / "sub", "c.png.txt", "(hat:0.5)")
    written(tmp_path, "db.json", {})
    untagged: list[str] = []
    found = list(tagged_images(tmp_path, untagged))
    assert [image.id for image in found] == ["a.jpg", "alone", "b.png", "sub/c.png"]
    assert [len(image.scores) for image in found] == [1, 1, 4, 1]
    assert untagged == ["none.webp"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            {"x": {"hat": 1.5}},
            "image 'x': tag 'hat' has the score 1.5; give the tagger's scores, 0 to 1",
        ),
        ("a.json", {"x": {"general": {"hat": -1}}}, "image 'x', general: tag 'hat' has the score -1"),
        ("a.json", {"x": 3, "y": "hat"}, "image 'x': 3 holds no tags; give an object"),
        ("a.json", {"x": {"size": [3]}}, "image 'x': has no tags in ['size']"),
        ("a.json", {"x": [3]}, "image 'x': 3 is no tag"),
        ("a.json", {"x": [{"tag": "hat", "score": 1, "category": 7}]}, "the category is 7; write one of 0 (general)"),
        ("a.json", '{"x": {"hat": NaN}}', "a.json: is no JSON (NaN is no number of JSON)"),
        ("a.json", '{"x": "", "x": ""}', "the key x occurs twice"),
        ("a.json", '{"\\ud800": ""}', "a.json: is no JSON"),
        ("a.json", [], "[] holds no image"),
        ("a.json", {}, "holds no image"),
        ("a.json", {"query": {"k": ["x", 0]}, "tag": {"hat": [1.5]}, "rating": {}}, "a.json: damaged"),
        ("a.jsonl", '{"tags": "hat"}\n', "a.jsonl: line 1: {'tags': 'hat'} names no image; give it in one of image, "),
        ("a.csv", "image,tag,score\nx,hat,high\n", "line 2, image 'x': tag 'hat' has the score 'high'"),
        ("a.csv", "image,tag,score\nx,hat\n", "line 2: has 2 cells, but the header 3"),
        ("a.csv", "image,tag,score\nx,hat,1\ny,hat,1\nx,solo,1\n", "line 4, image 'x': its rows do not stand together"),
        ("a.csv", "tag_id,name,category,count\n1,hat,0,3\n", "has the tags of a tagger without scores"),
        ("a.csv", "score,weight\n1,2\n", "no column names the image"),
        ("a.csv", "filename,hat\nx,3\n", "image 'x': tag 'hat' has the score '3'"),
        ("a.csv", 'filename,tags\nx,"a"b\n', "line 2: is no CSV"),
        ("a.csv", "", "no column names the image in []"),
        ("a.png", "", "its suffix tells no form of a tagger"),
    ],
)
def test_what_is_no_score_is_named_with_its_place(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(CaptionFileError) as error:
        images(written(tmp_path, name, content))
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path))
    assert "; " in str(error.value)


def test_other_encodings_and_folders_of_others_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaptionFileError, match=r"no file of \.txt, \.caption, \.json in it"):
        images(tmp_path)
    (tmp_path / "a.csv").write_bytes(b"filename,tags\na,caf\xe9\n")
    with pytest.raises(CaptionFileError, match="a byte 0xe9 is no UTF-8"):
        images(tmp_path / "a.csv")
    written(tmp_path, "settings.json", {"x": {"y": 1}})
    with pytest.raises(CaptionFileError, match=r"settings\.json: holds other things than the scores of one image"):
        images(tmp_path)


def test_selected_tags_tell_the_kinds(tmp_path: Path) -> None:
    table = "tag_id,name,category,count\n9,general,9,1\n1,cat ears,0,3\n2,miku,4,3\n"
    assert read_selected_tags(written(tmp_path, "selected_tags.csv", table)) == {
        "general": "rating",
        "cat_ears": "general",
        "miku": "character",
    }
    for content, message in (
        ("a,b\n", "no columns name and category"),
        ("name,category\nhat,\n", "line 2: has no name"),
    ):
        with pytest.raises(CaptionFileError, match=message):
            read_selected_tags(written(tmp_path, "selected_tags.csv", content))
