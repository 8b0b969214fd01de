"""JSON that is not one object a line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.posts.readers import json_documents, lines
from booru_embed_core.posts.readers.json_documents import JsonDocumentsReader
from booru_embed_core.posts.readers.json_lines import JsonLinesReader
from booru_embed_core.posts.readers.registry import open_reader
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, kept, read_rejects, read_rows, row

ROWS = [row(number, f"tag_{number} b") for number in range(7)]


def without_id(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key != "id"}


SHAPES: dict[str, Callable[[list[Any]], str]] = {
    "array": json.dumps,
    "indented array": lambda rows: json.dumps(rows, indent=2),
    "one a line in an array": lambda rows: "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n",
    "wrapper": lambda rows: json.dumps({"posts": rows}),
    "indented wrapper": lambda rows: json.dumps({"@attributes": {"limit": 100, "count": 7}, "post": rows}, indent=1),
    "indented objects": lambda rows: "\n".join(json.dumps(one, indent=4) for one in rows),
    "objects in one line": lambda rows: "".join(map(json.dumps, rows)),
    "text sequence": lambda rows: "".join(f"\x1e{json.dumps(one, indent=1)}\n" for one in rows),
    "by id": lambda rows: json.dumps({str(one["id"]): one for one in rows}),
    "by id alone": lambda rows: json.dumps({str(one["id"]): without_id(one) for one in rows}, indent=1),
    "one in an object each": lambda rows: "\n".join(json.dumps({"post": one}) for one in rows),
    "behind a byte order mark": lambda rows: "\ufeff" + json.dumps(rows),
}


def read(folder: Path, content: bytes, share: float = 0.9) -> tuple[PostsReport, Path]:
    file, out = folder / "posts.json", folder / f"out-{len(list(folder.iterdir()))}"
    out.mkdir()
    file.write_bytes(content)
    return read_posts([file], out, PostsSettings(max_rejected_share=share), ONE_THREAD), out


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_each_shape_gives_the_same_posts(
    tmp_path: Path, shape: Callable[[list[Any]], str], pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_documents, "_BATCH_OBJECTS", 3)
    report, out = read(tmp_path, pack(shape(ROWS).encode()))
    assert (report.num_read, report.num_kept, report.reconciles) == (7, 7, True)
    assert read_rows(out) == kept(ROWS)
    assert isinstance(open_reader(tmp_path / "posts.json"), JsonDocumentsReader)


def test_one_object_a_line_stays_with_the_reader_of_lines(tmp_path: Path) -> None:
    file = tmp_path / "posts.json"
    file.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    assert isinstance(open_reader(file), JsonLinesReader)
    # Also where the first line is broken: the others can be read.
    file.write_text("{\n" + "\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    assert isinstance(open_reader(file), JsonLinesReader)


def test_a_record_is_found_by_its_ordinal(tmp_path: Path) -> None:
    rows: list[Any] = [row(1), row(2, rating="x"), "no object", row(1), {**row(5), "score": 1.5}, row(6)]
    report, out = read(tmp_path, json.dumps(rows).encode())
    assert (report.num_kept, report.num_duplicate, report.num_rejected, report.reconciles) == (2, 1, 3, True)
    rejects = read_rejects(out)
    assert [reject["line"] for reject in rejects] == [2, 3, 4, 5]
    assert json.loads(str(rejects[0]["raw"])) == row(2, rating="x")
    assert rejects[1]["reason"] == "not a JSON object"


@pytest.mark.parametrize("cut", [b"]", b"", b'{"id": 9'])
def test_text_that_is_cut_is_an_error_and_leaves_nothing(tmp_path: Path, cut: bytes) -> None:
    content = json.dumps(ROWS).encode()[:-1] + b"," + cut
    with pytest.raises(ExportError, match=r"posts\.json: not JSON behind its post 7 \(.*\); fetch the file again"):
        read(tmp_path, content)
    (out,) = tmp_path.glob("out-*")
    assert not list(out.iterdir())


def test_an_array_without_objects_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"posts\.json: holds no JSON object; wanted posts"):
        read(tmp_path, b"[1, 2, 3]")
    with pytest.raises(ExportError, match=r"posts\.json: holds no JSON object; wanted posts"):
        read(tmp_path, b"[]")


def test_half_a_surrogate_pair_rejects_its_record_where_it_is_read(tmp_path: Path) -> None:
    rows = [row(1), {**row(2), "source": "\ud83d"}, row(3)]
    report, out = read(tmp_path, json.dumps(rows).encode())
    assert report.num_read == 3
    assert report.reconciles
    assert {post["id"] for post in read_rows(out)} >= {1, 3}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8"])
def test_utf16_is_told_by_its_mark(tmp_path: Path, indent: int | None, encoding: str) -> None:
    text = json.dumps([row(1, "\u521d\u97f3", rating="e")], indent=indent, ensure_ascii=False)
    report, out = read(tmp_path, (text if encoding == "utf-16" else f"\ufeff{text}").encode(encoding))
    assert (report.num_kept, read_rows(out)) == (1, kept([row(1, "\u521d\u97f3", rating="e")]))


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 64, 1 << 20])
def test_nan_is_nothing_and_stays_in_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(lines, "_BLOCK_BYTES", block_bytes)
    rows = [row(1, "a"), row(2, "NaN"), row(3, 'say_":NaN;"\\')]
    text = json.dumps([{**one, "tag_string_artist": float("nan"), "source": float("nan")} for one in rows])
    _, out = read(tmp_path, text.encode())
    assert read_rows(out) == kept([{**one, "tag_string_artist": ""} for one in rows])


def test_text_that_is_no_json_behind_a_nan_is_told(tmp_path: Path) -> None:
    text = json.dumps([{**row(1), "source": float("nan")}])[:-1] + ", {]"
    with pytest.raises(ExportError, match="not JSON behind its post"):
        read(tmp_path, text.encode())


def test_a_value_beside_posts_is_rejected(tmp_path: Path) -> None:
    report, out = read(tmp_path, json.dumps({"1": row(1), "2": "x", "3": without_id(row(3))}, indent=1).encode())
    assert (report.num_kept, report.num_rejected) == (2, 1)
    assert read_rejects(out)[0]["reason"] == "not a JSON object"


@pytest.mark.parametrize(
    "content", [b'{"a": {"tags": "\xed\xa0\x80"', b'[{"id": 1, "\xed": 2}]', b'{"posts": [{"\xff": 1}]}']
)
def test_bytes_that_are_no_text_are_an_error_of_the_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ExportError, match=r"posts\.json"):
        read(tmp_path, content)
