"""Files of Arrow's own formats, and the folders in which Hugging Face's `datasets` saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pytest

from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.readers.arrow_ipc import ArrowIpcReader
from booru_embed_core.posts.readers.registry import open_reader
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import TAG_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings
from tests.core.export_helpers import ONE_THREAD, read_rejects, read_rows, row

ROWS = [row(number, f"a t{number}", score=number) for number in range(10)]


def write(file: Path, rows: list[dict[str, Any]], *, is_stream: bool = True, codec: str | None = None) -> Path:
    table = pa.Table.from_pylist(rows)
    options = pa.ipc.IpcWriteOptions(compression=codec)
    new = pa.ipc.new_stream if is_stream else pa.ipc.new_file
    with pa.OSFile(str(file), "wb") as sink, new(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=4)
    return file


def read(export: Path, out: Path, threads: int = 1, **settings: Any) -> PostsReport:
    out.mkdir()
    return read_export(PostsSettings(export=(str(export),), **settings), Path(), out, DuckdbSettings(threads=threads))


@pytest.mark.parametrize("codec", [None, "zstd", "lz4"])
@pytest.mark.parametrize("is_stream", [True, False])
def test_both_formats_are_read(tmp_path: Path, is_stream: bool, codec: str | None) -> None:
    file = write(tmp_path / "posts.bin", ROWS, is_stream=is_stream, codec=codec)
    assert type(open_reader(file)) is ArrowIpcReader
    for threads in (1, 2):
        report = read(file, tmp_path / f"{threads}", threads)
        assert (report.num_read, report.num_kept) == (10, 10)
        assert read_rows(tmp_path / f"{threads}") == ROWS


def test_feather_is_read(tmp_path: Path) -> None:
    pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), str(tmp_path / "posts.feather"))
    assert read(tmp_path, tmp_path / "out").num_kept == 10
    (tmp_path / "old.feather").write_bytes(b"FEA1" + bytes(40))
    with pytest.raises(ExportError, match=r"old\.feather: is Feather of version 1; write it in version 2"):
        open_reader(tmp_path / "old.feather")


def test_batches_are_slices_of_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("booru_embed_core.posts.readers.arrow_ipc.BATCH_RECORDS", 3)
    rows = [*ROWS[:5], ROWS[5] | {"rating": "x"}, *ROWS[6:]]
    file = write(tmp_path / "posts.arrow", rows)
    read(file, tmp_path / "out", max_rejected_share=0.5)
    (reject,) = read_rejects(tmp_path / "out")
    assert (reject["line"], json.loads(reject["raw"])["rating"]) == (6, "x")


@pytest.mark.parametrize("is_stream", [True, False])
def test_what_is_cut_short_anywhere_is_an_error(tmp_path: Path, is_stream: bool) -> None:
    whole = write(tmp_path / "a.arrow", ROWS, is_stream=is_stream).read_bytes()
    file = tmp_path / "cut.arrow"
    for number, size in enumerate(range(20, len(whole), 100)):
        file.write_bytes(whole[:size])
        with pytest.raises(ExportError, match=r"cut\.arrow: "):
            read(file, tmp_path / f"out{number}")


def test_bytes_that_are_no_utf8_are_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "a.arrow", ROWS)
    file.write_bytes(file.read_bytes().replace(b"a t3", b"a \xff3"))
    with pytest.raises(ExportError, match="cannot be parsed"):
        read(file, tmp_path / "out")


def test_a_data_set_saved_to_disk_is_a_folder_of_its_posts(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    for split, rows in (("train", ROWS[:7]), ("validation", ROWS[7:])):
        (saved / split).mkdir(parents=True)
        lists = [one | {name: one[name].split() or None for name in TAG_COLUMNS} for one in rows]
        write(saved / split / "data-00000-of-00001.arrow", lists)
        write(saved / split / "cache-5f2a.arrow", lists[:1])
        (saved / split / "state.json").write_text('{"_data_files": []}', encoding="utf-8")
        (saved / split / "dataset_info.json").write_text('{"features": {"id": {}}}', encoding="utf-8")
    (saved / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}', encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    report = read_export(PostsSettings(export=("saved",)), tmp_path, out, ONE_THREAD)
    assert (report.num_read, report.num_kept) == (10, 10)
    assert read_rows(out) == ROWS
    names = ("cache-5f2a.arrow", "dataset_info.json", "state.json")
    splits = [f"{split}/{name}" for split in ("train", "validation") for name in names]
    assert report.left_out == ("dataset_dict.json", *splits)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_name_that_is_no_utf8_is_an_error(tmp_path: Path, is_stream: bool) -> None:
    file = write(tmp_path / "a.arrow", [one | {"other": 1} for one in ROWS], is_stream=is_stream)
    file.write_bytes(file.read_bytes().replace(b"other", b"oth\xff\xfe"))
    with pytest.raises(ExportError, match=r"a\.arrow: cannot be parsed"):
        open_reader(file)
