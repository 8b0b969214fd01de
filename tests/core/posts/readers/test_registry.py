"""Which reader opens which file, and a new format that is registered by one line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.export_files import expand_export
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.posts.readers import registry
from booru_embed_core.posts.readers.base import HIDDEN_COLUMN, ExportPath, Reader
from booru_embed_core.posts.readers.captions import FilesOfTags
from booru_embed_core.posts.readers.chunked_csv import ChunkedCsvReader
from booru_embed_core.posts.readers.compression import PACKED_SUFFIXES
from booru_embed_core.posts.readers.delimited import DelimitedReader
from booru_embed_core.posts.readers.json_lines import JsonLinesReader
from booru_embed_core.posts.readers.parquet import ParquetReader
from booru_embed_core.posts.readers.registry import READERS, export_suffixes, open_reader
from booru_embed_core.posts.readers.sidecars import SidecarReader
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, csv_bytes, read_rejects, read_rows, row

MAGIC = b"made-up 1 "


class MadeUpReader:
    """A JSON array behind a magic word: no lines, and a "line" is the record's place in the array."""

    suffixes: ClassVar[tuple[str, ...]] = (".made",)

    def __init__(self, path: Path, names: Conventions = DANBOORU) -> None:
        self._records = json.loads(path.read_bytes().removeprefix(MAGIC))
        self.num_records = len(self._records)
        self.malformed = np.flatnonzero([not isinstance(record, dict) for record in self._records]) + 1

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        return candidate.start.startswith(MAGIC)

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:
        rows = [{**record, HIDDEN_COLUMN: False} for record in self._records if isinstance(record, dict)]
        yield from pa.Table.from_pylist(rows).to_batches()

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        lines = np.setdiff1d(np.arange(1, self.num_records + 1), self.malformed)
        return lines[record]

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        for line in lines:
            yield line, json.dumps(self._records[line - 1]).encode(), None if line not in self.malformed else "no post"


def test_a_new_format_is_one_line_of_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "READERS", (MadeUpReader, *READERS))
    (tmp_path / "b.made").write_bytes(MAGIC + json.dumps([row(2), 7, row(1), row(3, rating=None), row(4)]).encode())
    (tmp_path / "a.csv").write_bytes(csv_bytes([row(1)]))
    out_dir = tmp_path / "posts"
    out_dir.mkdir()
    files = expand_export([str(tmp_path)], tmp_path)
    report = read_posts(files, out_dir, PostsSettings(max_rejected_share=0.5), ONE_THREAD)
    assert report.reconciles
    assert (report.num_read, report.num_kept, report.num_rejected, report.num_duplicate) == (6, 3, 2, 1)
    assert read_rows(out_dir) == [row(1), row(2), row(4)]
    assert [(reject["file"], reject["line"], reject["reason"]) for reject in read_rejects(out_dir)] == [
        ("b.made", 2, "no post"),
        ("b.made", 3, "duplicate: an earlier post has this id"),
        ("b.made", 4, "not a well-formed record"),
    ]


def parquet(file: Path) -> bytes:
    pq.write_table(pa.Table.from_pylist([row(1)]), file)
    return file.read_bytes()


@pytest.mark.parametrize(
    ("write", "ends_early", "expected"),
    [
        (lambda _: csv_bytes([row(1)]), False, DelimitedReader),
        (lambda _: csv_bytes([row(1)]), True, ChunkedCsvReader),
        (lambda _: gzip.compress(csv_bytes([row(1)], delimiter="\t")), False, DelimitedReader),
        (lambda _: b"\xef\xbb\xbf \n" + json.dumps(row(1)).encode(), False, JsonLinesReader),
        (lambda _: gzip.compress(json.dumps(row(1)).encode()), True, JsonLinesReader),
        (parquet, False, ParquetReader),
        (parquet, True, ParquetReader),
    ],
)
def test_readers_are_chosen_by_the_first_bytes_whatever_the_name(
    tmp_path: Path, write: Callable[[Path], bytes], ends_early: bool, expected: type[Reader]
) -> None:
    file = tmp_path / "export.bin"
    file.write_bytes(write(file))
    assert type(open_reader(file, ends_early=ends_early)) is expected


def test_a_folder_has_no_reader(tmp_path: Path) -> None:
    folder = tmp_path / "posts"
    folder.mkdir()
    with pytest.raises(ExportError, match=r"posts: no reader opens it; name files of one of \.parquet, "):
        open_reader(folder)


def test_every_reader_has_the_same_four_methods() -> None:
    for reader in (*READERS, MadeUpReader):
        methods = {name for name in dir(reader) if not name.startswith("_") and callable(getattr(reader, name))}
        assert methods - {"left_out"} == {"opens", "batches", "line_of", "problems"}, reader
        assert ("left_out" in methods) == issubclass(reader, FilesOfTags | SidecarReader)


def test_folders_are_searched_for_the_suffixes_of_all_readers() -> None:
    kinds = (
        ".arrow",
        ".csv",
        ".db",
        ".feather",
        ".json",
        ".jsonl",
        ".ndjson",
        ".parquet",
        ".sqlite",
        ".sqlite3",
        ".tsv",
    )
    assert set(export_suffixes()) == {kind + packed for kind in kinds for packed in PACKED_SUFFIXES}
