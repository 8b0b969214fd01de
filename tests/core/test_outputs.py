"""Outputs take no one's place, follow no link, and are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from booru_embed_core.filesystem import ForeignPathError, locked_folder
from booru_embed_core.outputs import check_output_file, check_output_folder, claimed_folder, new_folder

VERSION = "0123456789abcdef"


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A version in a warehouse, with a link to it."""
    folder = tmp_path / "warehouse/vocab" / VERSION
    folder.mkdir(parents=True)
    (folder / "version.json").write_text("{}")
    (folder.parent / "current").symlink_to(VERSION)
    (tmp_path / "shortcut").symlink_to(folder.parent)
    return folder


@pytest.mark.parametrize("check", [check_output_file, check_output_folder])
@pytest.mark.parametrize(
    "place", ["vocab/current", f"vocab/{VERSION}", "vocab", f"vocab/{VERSION}/deep", "../shortcut"]
)
def test_nothing_is_put_into_a_product(product: Path, check: Callable[[Path], None], place: str) -> None:
    (product / "deep").mkdir()
    with pytest.raises(
        ForeignPathError, match=r"/new\.csv: lies in .*/vocab.*, a product of a warehouse; name an --out"
    ):
        check(product.parents[1] / place / "new.csv")
    check(product.parents[1] / "new.csv")  # beside the assets


def test_a_folder_with_another_version_json_and_another_current_is_no_product(tmp_path: Path) -> None:
    (tmp_path / "version.json").write_text("{}")
    (tmp_path / "current").symlink_to("releases/7")
    check_output_file(tmp_path / "out.csv")
    check_output_folder(tmp_path / "out")


@pytest.mark.parametrize("check", [check_output_file, check_output_folder])
@pytest.mark.parametrize("target", ["file", "folder", "nowhere"])
def test_a_link_is_no_output(tmp_path: Path, check: Callable[[Path], None], target: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ForeignPathError, match=f"/link: is a link to {target}; remove it, or name another --output$"):
        check(tmp_path / "link")


def test_a_file_replaces_only_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    check_output_file(tmp_path / "file")
    check_output_file(tmp_path / "new")
    for name, kind in (("pipe", "a pipe"), ("folder", "a folder")):
        with pytest.raises(ForeignPathError, match=f"/{name}: is {kind}; name a file as --output$"):
            check_output_file(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"/none: no such folder, for --output x; create it first$"):
        check_output_file(tmp_path / "none/x")


def fill(folder: Path, error: BaseException | None = None) -> None:
    with new_folder(folder, "--out") as draft:
        (draft / "file").write_text("new")
        (draft.parent / "booru-embed-x").mkdir()
        assert not (folder / "file").exists()
        if error is not None:
            raise error


def test_a_folder_appears_whole_and_an_error_leaves_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "a/b/new")
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["new"]
    assert (tmp_path / "a/b/new/file").read_text() == "new"
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty")
    before = sorted(tmp_path.rglob("*"))
    for error in (KeyboardInterrupt(), ValueError()):
        with pytest.raises(type(error)):
            fill(tmp_path / "c/d/new", error)
    with pytest.raises(FileExistsError, match=r"/empty: exists and is not an empty folder; remove it or name another"):
        fill(tmp_path / "empty")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    scratch = tmp_path / ".out.booru-embed"
    for name in ("draft", "posts", "booru-embed-abc"):
        (scratch / name).mkdir(parents=True)
        (scratch / name / "half").write_text("?")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    (scratch / "draft/link").symlink_to("../../precious")
    fill(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "precious"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    assert (tmp_path / "precious/file").exists()


@pytest.mark.parametrize("kind", ["link", "dangling", "link inside", "file", "other content", "pipe inside"])
def test_a_foreign_thing_at_the_scratch_folders_name_is_named_and_kept(tmp_path: Path, kind: str) -> None:
    scratch, precious = tmp_path / ".out.booru-embed", tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("!")
    if kind in ("link", "dangling"):
        scratch.symlink_to("precious" if kind == "link" else "nowhere")
    elif kind == "file":
        scratch.write_text("!")
    else:
        scratch.mkdir()
    if kind == "link inside":
        (scratch / "draft").symlink_to("../precious")
    elif kind == "other content":
        (scratch / "thesis").mkdir()
    elif kind == "pipe inside":
        os.mkfifo(scratch / "draft")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ForeignPathError, match=rf"^{scratch}\S*: (is|stands) .*; move it away"):
        fill(tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    assert (precious / "file").read_text() == "!"


def test_one_process_at_a_time_keeps_a_folder_that_goes_when_it_is_empty(tmp_path: Path) -> None:
    folder = tmp_path / "out.parts"
    with (
        claimed_folder(folder, ["part-*"]),
        pytest.raises(ForeignPathError, match=r"out\.parts: another process writes it; wait for it or name another"),
        claimed_folder(folder, ["part-*"]),
    ):
        pytest.fail("the folder is locked")
    assert not folder.exists()
    with claimed_folder(folder, ["part-*"]):
        (folder / "part-1").touch()
    with locked_folder(folder):
        assert (folder / "part-1").exists()
