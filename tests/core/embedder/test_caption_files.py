"""Captions and ids from text, JSON lines and Parquet; and rows that hold none."""

from __future__ import annotations

import errno
import gzip
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.embedder import caption_files
from booru_embed_core.embedder.caption_files import CaptionFile, CaptionFileError, InputFormat, format_of
from booru_embed_core.errors import DiskError

JSONL, PARQUET, TEXT = InputFormat.JSONL, InputFormat.PARQUET, InputFormat.TEXT


def rows(source: CaptionFile) -> list[tuple[Any, Any]]:
    return [(row.id, row.caption) for row in source]


def json_file(tmp_path: Path, *lines: str, **options: Any) -> CaptionFile:
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CaptionFile(file, JSONL, **options)


def parquet_file(tmp_path: Path, columns: dict[str, Any], **options: Any) -> CaptionFile:
    file = tmp_path / "in.parquet"
    pq.write_table(pa.table(columns), file)
    return CaptionFile(file, PARQUET, **options)


def test_a_line_of_text_is_a_caption_and_a_blank_one_the_empty_caption(tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    file.write_bytes("\ufeff1girl, solo\r\n\n  hat\u2028smile \r\nlast".encode())
    source = CaptionFile(file, TEXT)
    assert rows(source) == [(0, "1girl, solo"), (1, ""), (2, "  hat\u2028smile "), (3, "last")]
    assert source.share == 1
    file.write_text("one\n")
    assert [row.place for row in CaptionFile(file, TEXT)] == [f"{file}: line 1"]


def test_standard_input_and_compressed_files_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b'"hat"\n["1girl", "solo"]\n'
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert rows(CaptionFile(None, JSONL)) == [(0, "hat"), (1, ["1girl", "solo"])]
    file = tmp_path / "in.jsonl.gz"
    file.write_bytes(gzip.compress(content))
    assert format_of(file) is JSONL
    assert rows(CaptionFile(file, JSONL)) == [(0, "hat"), (1, ["1girl", "solo"])]


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ('"1girl, hat"', "1girl, hat"),
        ('["1girl", "hat"]', ["1girl", "hat"]),
        ('{"caption": "hat"}', "hat"),
        ('{"tags": ["hat"]}', ["hat"]),
        ('{"tags": {"hat": 0.5}}', {"hat": 0.5}),
        ('{"hat": 0.5, "1girl": 1}', {"hat": 0.5, "1girl": 1}),
        ('{"tags": 0.5, "caption": 1}', {"tags": 0.5, "caption": 1}),
        ("{}", {}),
        ('""', ""),
    ],
)
def test_a_json_value_is_a_caption_in_each_of_its_forms(tmp_path: Path, line: str, caption: Any) -> None:
    assert rows(json_file(tmp_path, line)) == [(0, caption)]


def test_ids_are_passed_through_and_keys_that_are_not_read_are_told(tmp_path: Path) -> None:
    source = json_file(tmp_path, '{"id": 9, "caption": "hat", "score": 3}', "", ' {"id": -1, "hat": 1, "solo": 0.5}')
    assert rows(source) == [(9, "hat"), (-1, {"hat": 1, "solo": 0.5})]
    assert (list(source.unused), source.num_blank) == (["score"], 1)
    named = json_file(tmp_path, '{"md5": "ab", "text": ["hat"], "id": 3}', column="text", id_column="md5")
    assert rows(named) == [("ab", ["hat"])]
    assert list(named.unused) == ["id"]


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (
            ["1girl, hat"],
            {},
            "line 1: '1girl, hat' is no JSON value (.*); write one value a line, or",
        ),
        (['"a"', "null"], {}, 'line 2: null is no caption; write "" for the empty caption, or leave the row out'),
        (["true"], {}, "line 1: true is no caption; give text, a list of tags, or an object of tags and weights"),
        (["3.5"], {}, "line 1: 3.5 is no caption; give"),
        (['{"caption": null}'], {}, "line 1: null is no caption"),
        (['{"caption": "a", "tags": "b"}'], {}, "line 1: has both caption and tags; name one with --column"),
        (['{"prompt": "a", "n": 1}'], {}, "line 1: no key caption or tags; it has prompt, n: name one with --column"),
        (['{"hat": true}'], {}, "line 1: no key caption or tags; it has hat: name"),
        (['{"prompt": "a"}'], {"column": "text"}, "line 1: no key 'text'; name one of prompt with --column"),
        (['{"caption": "a"}'], {"id_column": "md5"}, "line 1: no key 'md5' for the id; it has caption: add it"),
        (['"a"'], {"id_column": "md5"}, "line 1: 'a' has no key 'md5'; leave --id-column out"),
        (['{"id": null, "caption": "a"}'], {}, "line 1: the id is null; write one, or name another --id-column"),
        (['{"id": 1.5, "caption": "a"}'], {}, "line 1: the id is 1.5; ids are text or whole numbers of 64 bits"),
        (['{"id": true, "caption": "a"}'], {}, "line 1: the id is true; ids are text"),
        ([f'{{"id": {2**63}, "caption": "a"}}'], {}, f"line 1: the id is {2**63}; ids are text"),
        (
            ['{"id": 1, "caption": "a"}', '{"id": "x", "caption": "a"}'],
            {},
            "line 2: the id is 'x', but those before are",
        ),
        (['{"hat": 1, "hat": 0.5}'], {}, r"line 1: .* is no JSON value (the key 'hat' is there twice); write"),
        (['"\\ud800"'], {}, "line 1: .* is no JSON value (.*surrogates not"),
        (["[" * 100_000], {}, "line 1: .* is no JSON value (is nested too deeply)"),
    ],
)
def test_a_row_without_a_caption_is_named(
    tmp_path: Path, lines: list[str], options: dict[str, str], message: str
) -> None:
    pattern = message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")
    with pytest.raises(CaptionFileError, match=f"^{tmp_path}/in.jsonl: {pattern}") as caught:
        rows(json_file(tmp_path, *lines, **options))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"solo\nh\xe4t\n", r"line 2: byte 2 \(0xe4\) is no UTF-8; convert the file to UTF-8"),
        (b"solo\n" + b"x" * (1 << 20) + b"yy", "line 2: is longer than 1,048,576 bytes; write one caption a line"),
    ],
)
def test_bytes_that_are_no_line_of_text_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "in.txt"
    file.write_bytes(content)
    with pytest.raises(CaptionFileError, match=f"^{file}: {message}$"):
        rows(CaptionFile(file, TEXT))


MAP = pa.map_(pa.string(), pa.float32())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ["1girl, hat", ""]),
        (pa.large_string(), ["hat", "solo"]),
        (pa.dictionary(pa.int32(), pa.string()), ["hat", "hat"]),
        (pa.list_(pa.string()), [["1girl", "hat"], []]),
        (pa.large_list(pa.large_string()), [["1girl"], ["hat"]]),
        (MAP, [{"hat": 0.5}, {}]),
    ],
)
def test_a_parquet_column_of_each_type_is_read(tmp_path: Path, kind: pa.DataType, values: list[Any]) -> None:
    pairs = [list(value.items()) if isinstance(value, dict) else value for value in values]
    source = parquet_file(tmp_path, {"text": pa.array(pairs, kind), "id": [7, 8], "score": [1, 2]})
    assert rows(source) == [(7, values[0]), (8, values[1])]
    assert list(source.unused) == ["score"]
    assert source.share == 1


def test_parquet_columns_are_found_by_name_and_by_type(tmp_path: Path) -> None:
    columns = {"id": ["a", "b"], "caption": ["hat", "solo"], "title": ["x", "y"], "n": [3, 4]}
    assert rows(parquet_file(tmp_path, columns)) == [("a", "hat"), ("b", "solo")]
    assert rows(parquet_file(tmp_path, columns, column="title", id_column="n")) == [(3, "x"), (4, "y")]
    assert rows(parquet_file(tmp_path, {"prompt": ["hat"], "n": [3]})) == [(0, "hat")]
    assert rows(parquet_file(tmp_path, {"prompt": pa.array([], pa.string())})) == []


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": ["x"], "b": ["y"]}, {}, ": captions may be in a, b; name one with --column"),
        ({"n": [1]}, {}, ": no column is text, lists or maps of text; name one with --column"),
        ({"n": [1], "a": ["x"]}, {"column": "n"}, ": column n is int64, not text, lists of text or maps of text to"),
        ({"a": ["x"]}, {"column": "b"}, ": no columns 'b'; name another of a with --column"),
        ({"a": ["x"]}, {"id_column": "b"}, ": no columns 'b'; name another of a with --id-column"),
        ({"a": ["x", None]}, {}, ': row 2: null is no caption; write "" for the empty caption, or leave the row out'),
        ({"a": ["x"], "id": pa.array([None], pa.int64())}, {}, ": row 1: the id is null; write one, or name another"),
        ({"a": ["x"], "id": [1.5]}, {}, ": row 1: the id is 1.5; ids are text or whole numbers"),
        (
            {"a": pa.array([[("hat", 1), ("hat", 2)]], MAP)},
            {},
            ": row 1: the key 'hat' is there twice; give each",
        ),
    ],
)
def test_a_parquet_file_without_captions_is_told(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, str], message: str
) -> None:
    with pytest.raises(CaptionFileError, match=f"^{tmp_path}/in.parquet{message}"):
        rows(parquet_file(tmp_path, columns, **options))


def test_a_file_that_is_no_parquet_is_told(tmp_path: Path) -> None:
    file = tmp_path / "in.parquet"
    file.write_text("1girl")
    with pytest.raises(CaptionFileError, match=r"cannot be read as Parquet .*; write it again, or say what it is"):
        rows(CaptionFile(file, PARQUET))
    with pytest.raises(CaptionFileError, match="is a folder; name a Parquet file in it"):
        rows(CaptionFile(tmp_path, PARQUET))
    with pytest.raises(CaptionFileError, match="is a folder; name a file with captions"):
        rows(CaptionFile(tmp_path, TEXT))


def test_the_form_is_told_by_the_suffix_or_by_the_caller() -> None:
    told = {"a.txt": TEXT, "a.JSONL": JSONL, "a.ndjson.zst": JSONL, "a.pq": PARQUET, "a.b.parquet": PARQUET}
    assert {name: format_of(Path(name)) for name in told} == told
    assert format_of(Path("tags.csv"), TEXT) is TEXT
    assert (format_of(None), format_of(None, JSONL)) == (TEXT, JSONL)
    for name in ("posts.csv", "posts.json", "posts", "posts.parquet.gz"):
        with pytest.raises(
            CaptionFileError, match=f"^{name}: the suffix does not tell how it holds captions; say so with"
        ):
            format_of(Path(name))
    with pytest.raises(CaptionFileError, match="Parquet cannot be read from it; name the file with --file"):
        format_of(None, PARQUET)


def test_a_row_of_any_json_object_is_read_in_its_own_order(tmp_path: Path) -> None:
    tags = {f"tag_{number}": number / 10 for number in (3, 1, 2)}
    ((_, caption),) = rows(json_file(tmp_path, json.dumps(tags)))
    assert list(caption) == list(tags)


def test_a_file_that_cannot_be_read_to_its_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(_: CaptionFile) -> Iterator[tuple[int, str]]:
        yield 1, "1girl"
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(caption_files, "_lines", faulty)
    found = iter(CaptionFile(tmp_path / "in.txt", TEXT))
    assert next(found).caption == "1girl"
    with pytest.raises(DiskError, match=r"in\.txt: Input/output error; check the disk and its connection"):
        next(found)
