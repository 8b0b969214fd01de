"""What the commands share: output files that appear whole, warnings once, aligned tables."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path

import pytest

from booru_embed_core.cli.shared import (
    output_file,
    packed_file,
    print_facts,
    print_json,
    print_table,
    unknown_tags_on_stderr,
)
from booru_embed_core.embedder.results import UnknownTagsWarning
from booru_embed_core.errors import DiskError


def test_an_output_file_appears_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    output.write_text("old")

    def interrupted() -> None:
        with output_file(output) as partial:
            partial.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out.csv", "old")]
    with output_file(output) as partial:
        partial.write_text("new")
        assert output.read_text() == "old"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out.csv", "new")]
    with pytest.raises(FileNotFoundError, match=r"none: no such folder, for --output x\.csv; create it first"):
        output_file(tmp_path / "none" / "x.csv").__enter__()


def test_an_output_on_a_full_disk_names_its_folder_and_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with output_file(tmp_path / "out.csv") as partial:
            partial.write_text("half of the n")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        DiskError, match=f"^{tmp_path}: No space left on device .*, or choose an --output on another disk$"
    ):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_packed_file_is_named_by_itself_or_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "tokens.safetensors"
    file.touch()
    assert packed_file(tmp_path) == packed_file(file) == file
    assert packed_file(tmp_path / "none") == tmp_path / "none"


def test_unknown_tags_are_told_once_and_other_warnings_are_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with unknown_tags_on_stderr():
        for tag in ("zebra", "okapi", "zebra"):
            warnings.warn(f"{tag} is unknown", UnknownTagsWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "warning: zebra is unknown\nwarning: okapi is unknown\n")


def test_columns_are_aligned_and_lines_have_no_trailing_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("a", "long cell", "x"), ("long", "b", "")])
    assert capsys.readouterr().out == "a     long cell  x\nlong  b\n"
    print_table([])
    assert capsys.readouterr().out == ""
    print_facts({"name": "text", "sizes": {"a": 1}})
    assert capsys.readouterr().out == 'name   text\nsizes  {"a": 1}\n'
    print_json({"tag": "é"})
    assert capsys.readouterr().out == '{"tag": "é"}\n'
