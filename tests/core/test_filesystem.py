"""Files and folders: sizes, modes, hashes, locks, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from booru_embed_core.filesystem import (
    ForeignPathError,
    atomic_file,
    file_sha256,
    folder_bytes,
    followed,
    locked_folder,
    make_folder,
    move_folder,
    open_regular,
    remove,
    remove_unfinished,
    removed_on_error,
    scratch_folder,
    set_file_modes,
    sync,
    sync_tree,
)

HOLD = """
import sys
from pathlib import Path
from booru_embed_core.filesystem import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.readline()
    Path(sys.argv[1], "released").touch()
"""


def interrupt_after(_: object) -> None:
    raise KeyboardInterrupt


def test_a_folder_is_as_big_as_all_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "deep" / "er" / "b").write_bytes(b"123")
    assert folder_bytes(tmp_path) == 8
    assert folder_bytes(tmp_path / "missing") == 0


def test_files_that_only_their_owner_could_read_get_the_mode(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "weights"
    file.touch(mode=0o600)
    set_file_modes(tmp_path, 0o644)
    assert os.stat(file).st_mode & 0o777 == 0o644
    sync_tree(tmp_path)


def test_a_scratch_folder_goes_with_its_content(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_hash_is_that_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_folder_that_another_process_has_is_refused_or_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError), locked_folder(tmp_path):
            pytest.fail("the folder is locked")
        assert not (tmp_path / "released").exists()
        other.stdin.write("go\n")
        other.stdin.flush()
        with locked_folder(tmp_path, wait=True):
            assert (tmp_path / "released").exists(), "the wait ends when the other process leaves its block"
    with locked_folder(tmp_path):  # free again
        pass


def test_an_error_within_the_block_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), locked_folder(tmp_path):
        raise ValueError("inside")
    with locked_folder(tmp_path):
        pass


def test_a_file_changes_when_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text("old")
    with atomic_file(file) as partial:
        partial.write_text("new")
        assert partial.name == "file.json.partial"
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_stays_after_an_error_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(file) as partial:
        interrupt_after(partial.write_text("half"))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_killed_writers_partial_file_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    (tmp_path / "file.json.partial").write_text("left over and longer than the new content")
    with atomic_file(file) as partial:
        partial.write_text("new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_is_unfinished_is_removed_after_an_error_alone(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "partial"

    def write(error: BaseException | None) -> None:
        with removed_on_error(path):
            path.mkdir() if is_folder else path.touch()
            if error is not None:
                raise error

    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt())
    assert not path.exists()
    write(None)
    assert path.exists()


def test_only_plain_files_and_links_to_them_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"abc"
    assert file_sha256(tmp_path / "link") == hashlib.sha256(b"abc").hexdigest()
    for name in ("pipe", ".", "missing"):
        with pytest.raises(OSError, match=r"not a plain file|Is a directory|No such file"):
            file_sha256(tmp_path / name)  # of the pipe it would wait for a writer


@pytest.mark.parametrize("kind", ["link", "hard link", "folder", "pipe"])
def test_an_unfinished_file_is_written_through_no_link(tmp_path: Path, kind: str) -> None:
    precious, partial = tmp_path / "precious", tmp_path / "file.partial"
    precious.write_text("!")
    {
        "link": lambda: partial.symlink_to(precious),
        "hard link": lambda: partial.hardlink_to(precious),
        "folder": partial.mkdir,
        "pipe": lambda: os.mkfifo(partial),
    }[kind]()

    def write() -> None:
        with atomic_file(tmp_path / "file") as path:
            path.write_text("new")

    if kind == "hard link":
        write()
    else:
        with pytest.raises(
            ForeignPathError, match=rf"/file\.partial: is a {kind}, where an unfinished .*; move it away$"
        ):
            write()
        assert partial.is_symlink() or partial.exists()
    assert precious.read_text() == "!"


def test_a_link_is_removed_or_replaced_itself(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("!")
    for name in ("one", "two"):
        (tmp_path / name).symlink_to("precious")
    remove(tmp_path / "one")
    with atomic_file(tmp_path / "two") as partial:
        partial.write_text("new")
    assert (tmp_path / "two").read_text() == "new"
    assert not (tmp_path / "two").is_symlink()
    assert (tmp_path / "precious/file").read_text() == "!"
    with pytest.raises(ForeignPathError, match="/two: is a file, where a folder is needed; move it away"):
        make_folder(tmp_path / "two")


def test_a_process_that_ends_amid_a_native_call_can_remove_what_is_unfinished(tmp_path: Path) -> None:
    (tmp_path / "done").touch()
    with scratch_folder(tmp_path) as scratch, atomic_file(tmp_path / "file") as partial:
        (scratch / "deep").mkdir()
        assert partial.exists()
        remove_unfinished()
        assert [path.name for path in tmp_path.iterdir()] == ["done"]
        partial.write_text("so that the block can end")
    remove_unfinished()
    assert (tmp_path / "file").exists()


def test_a_folder_that_cannot_be_flushed_is_no_error_and_a_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "file")


def test_a_file_that_cannot_be_read_to_its_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "weights").touch()
    monkeypatch.setattr("hashlib.file_digest", fail)
    with pytest.raises(OSError, match=r"Input/output error: '.*weights'"):
        file_sha256(tmp_path / "weights")


def test_a_file_that_a_copy_made_of_the_link_current_counts_as_the_link(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    current = tmp_path / "current"
    current.write_text("v1\n")
    assert followed(current) == tmp_path / "v1"
    assert followed(current / "table.parquet") == tmp_path / "v1/table.parquet"
    for content in ("", "../v1", "v1/deeper", "v" * 300):
        current.write_text(content)
        assert followed(current / "table.parquet") == current / "table.parquet"
    current.unlink()
    current.symlink_to("v1")
    assert followed(current) == current


def test_a_folder_is_moved_to_where_nothing_or_an_empty_folder_is(tmp_path: Path) -> None:
    for number, is_there in enumerate((False, True)):
        folder, target = tmp_path / f"made{number}", tmp_path / f"target{number}"
        folder.mkdir()
        (folder / "file").touch()
        if is_there:
            target.mkdir()
        move_folder(folder, target)
        assert (target / "file").exists()
        assert not folder.exists()


def test_a_lock_tells_that_its_folder_was_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with locked_folder(folder) as is_there:
        assert is_there
    monkeypatch.setattr("booru_embed_core.filesystem._open_lock", lambda path: _opened_then_removed(path))
    with locked_folder(folder) as is_there:
        assert not is_there


def _opened_then_removed(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    folder.rmdir()
    return descriptor
