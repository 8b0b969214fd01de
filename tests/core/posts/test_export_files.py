"""Patterns of the settings to files of an export, and their names in reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from booru_embed_core.posts.export_files import expand_export, file_labels
from booru_embed_core.posts.validation import ExportError
from tests.core.export_helpers import PATTERN_LIKE


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


def test_labels_start_from_the_common_folder(tmp_path: Path) -> None:
    files = [tmp_path / "a" / "x.csv", tmp_path / "b" / "x.csv"]
    assert list(file_labels(files).values()) == ["a/x.csv", "b/x.csv"]
    assert list(file_labels(files[:1]).values()) == ["x.csv"]
    with pytest.raises(ExportError, match=r"no export file is named; set \[posts\] export"):
        file_labels([])
