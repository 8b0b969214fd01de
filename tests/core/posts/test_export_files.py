"""Patterns of the settings to files of an export, and their names in reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from booru_embed_core.posts.export_files import expand_export, file_labels
from booru_embed_core.posts.validation import ExportError


def test_patterns_give_sorted_files_once(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "folder.csv").mkdir()
    files = expand_export(["*.csv", "b.csv", str(tmp_path / "a.csv")], tmp_path)
    assert [file.name for file in files] == ["a.csv", "b.csv"]


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
