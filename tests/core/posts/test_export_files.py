"""Patterns of the settings to files of an export, and their names in reports."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts.export_files import expand_export, file_labels, files_in, find_export
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.readers import registry
from booru_embed_core.posts.readers.base import ExportPath
from booru_embed_core.posts.readers.parquet import ParquetReader
from booru_embed_core.posts.readers.registry import READERS
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, PATTERN_LIKE, csv_bytes, row


def test_patterns_give_sorted_files_once(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "folder.csv").mkdir()
    files = expand_export(["*.csv", "b.csv", str(tmp_path / "a.csv")], tmp_path)
    assert [file.name for file in files] == ["a.csv", "b.csv"]


@pytest.mark.parametrize("name", PATTERN_LIKE)
def test_a_file_is_found_by_its_name_and_patterns_start_in_any_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    file = root / f"{name}.csv"
    for path in (file, root / "ab.csv", root / "x.csv"):
        path.write_text("x", encoding="utf-8")
    assert expand_export([file.name], root) == [file]
    assert expand_export([str(file)], Path()) == [file]
    assert expand_export(["?.csv", "a[b].csv", "x.*"], root)[-1] == root / "x.csv"
    assert expand_export(["[a]b.c*v"], root) == expand_export(["**/ab.csv"], root) == [root / "ab.csv"]
    assert set(expand_export(["."], root)) == set(root.iterdir())


def test_a_pattern_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"posts-\*\.csv: no such export file; correct \[posts\] export"):
        expand_export(["posts-*.csv"], tmp_path)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(ExportError, match=r"a\.csv: is empty; export the posts again or remove the file"):
        expand_export(["a.csv"], tmp_path)


def test_a_folder_of_written_posts_stands_for_the_posts_alone(tmp_path: Path) -> None:
    for name in ("part-00000.parquet", "rejects.parquet", "report.json", "manifest.json"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert [file.name for file in expand_export(["."], tmp_path)] == ["part-00000.parquet"]
    (tmp_path / "report.json").unlink()  # now they may be anybody's
    found = [file.name for file in expand_export(["."], tmp_path)]
    assert found == ["manifest.json", "part-00000.parquet", "rejects.parquet"]


def made(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")


def test_a_data_sets_repository_stands_for_its_data(tmp_path: Path) -> None:
    names = ("data/train-00000-of-00001.parquet", "data/validation.JSONL", "posts.tar.xz", "images.zip")
    made(tmp_path, *names, "README.md", "dataset_infos.json", "data/state.json", ".gitattributes", ".git/posts.csv")
    found = find_export(["."], tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in found.files] == sorted(names)
    assert found.searched == set(found.files)
    left_out = [path.relative_to(tmp_path).as_posix() for path in found.left_out]
    assert left_out == [".git", ".gitattributes", "README.md", "data/state.json", "dataset_infos.json"]
    # What is named itself is no guess.
    named = find_export([".", "dataset_infos.json", "posts.tar.xz"], tmp_path)
    assert tmp_path / "dataset_infos.json" in named.files
    assert tmp_path / "dataset_infos.json" not in named.left_out
    assert set(named.files) - named.searched == {tmp_path / "dataset_infos.json", tmp_path / "posts.tar.xz"}


def test_of_many_other_files_the_first_are_named_and_all_are_counted(tmp_path: Path) -> None:
    made(tmp_path, "posts.csv", *(f"images/{number:03}.jpg" for number in range(30)), "images/a.png")
    left_out = find_export(["."], tmp_path).left_out
    assert len(left_out) == 21
    assert left_out[0] == tmp_path / "images/000.jpg"
    assert tmp_path / "images/11 more (30 .jpg, 1 .png in all)" in left_out


def test_a_folder_without_exports_says_what_it_holds(tmp_path: Path) -> None:
    made(tmp_path, "a/1.jpg", "a/2.jpg", "README.md")
    with pytest.raises(ExportError, match=r"among its 3 files \(2 \.jpg, 1 \.md\); what is read is .*; name the files"):
        find_export(["."], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match=r"empty: no such export file; correct \[posts\] export"):
        find_export(["empty"], tmp_path)


class FolderReader(ParquetReader):
    """Opens folders that hold a text file."""

    suffixes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        return candidate.path.is_dir() and any(candidate.path.glob("*.txt"))


def test_a_folder_that_a_reader_opens_is_one_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "READERS", (*READERS, FolderReader))
    made(tmp_path, "captions/1.txt", "captions/1.jpg", "captions/more/2.json", "others/posts.csv")
    found = find_export(["captions", "others"], tmp_path)
    assert found.files == (tmp_path / "captions", tmp_path / "others/posts.csv")
    assert found.searched == {tmp_path / "others/posts.csv"}
    assert files_in(tmp_path / "captions") == [tmp_path / "captions/1.txt", tmp_path / "captions/more/2.json"]
    assert files_in(tmp_path / "others/posts.csv") == [tmp_path / "others/posts.csv"]


def test_labels_start_from_the_common_folder(tmp_path: Path) -> None:
    files = [tmp_path / "a" / "x.csv", tmp_path / "b" / "x.csv"]
    assert list(file_labels(files).values()) == ["a/x.csv", "b/x.csv"]
    assert list(file_labels(files[:1]).values()) == ["x.csv"]
    with pytest.raises(ExportError, match=r"no export file is named; set \[posts\] export"):
        file_labels([])


def test_what_lies_beside_the_posts_of_a_folder_is_left_out_and_named(tmp_path: Path) -> None:
    export = tmp_path / "export"
    made(export, "README.md", "images/1.jpg")
    (export / "data").mkdir()
    pq.write_table(pa.Table.from_pylist([row(1), row(2)]), export / "data/train.parquet")
    (export / "tags.csv").write_text("id,name,category\n1,1girl,0\n", encoding="utf-8")
    (export / "package.json").write_text('{"name": "set", "version": "1"}\n', encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    report = read_export(PostsSettings(export=("export",)), tmp_path, out, ONE_THREAD)
    assert (report.num_kept, [counts.file for counts in report.files]) == (2, ["data/train.parquet"])
    assert report.left_out == ("README.md", "images/1.jpg", "package.json", "tags.csv")
    for name in ("tags.csv", "package.json"):
        with pytest.raises(ExportError, match=f"{name}: wrong columns: found"):
            read_export(PostsSettings(export=("export/data", f"export/{name}")), tmp_path, out, ONE_THREAD)


def test_posts_with_a_missing_column_and_a_folder_of_other_tables_are_errors(tmp_path: Path) -> None:
    for folder in ("export", "tables", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "export/a.csv").write_bytes(csv_bytes([row(1)]))
    (tmp_path / "export/b.csv").write_text("id,rating\n1,g\n", encoding="utf-8")
    (tmp_path / "tables/tags.csv").write_text("id,name\n1,1girl\n", encoding="utf-8")
    for folder, file in (("export", "b.csv"), ("tables", "tags.csv")):
        with pytest.raises(ExportError, match=f"{file}: wrong columns"):
            read_export(PostsSettings(export=(folder,)), tmp_path, tmp_path / "out", ONE_THREAD)


def test_a_database_of_another_program_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_bytes(csv_bytes([row(1)]))
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    found = find_export([str(tmp_path)], tmp_path)
    assert [file.name for file in found.files] == ["posts.csv"]
    assert [file.name for file in found.left_out] == ["Thumbs.db"]
