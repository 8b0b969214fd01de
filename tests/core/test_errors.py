"""An error's text in one line; the faults of a disk."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from booru_embed_core import errors
from booru_embed_core.errors import (
    MAX_MESSAGE,
    DiskError,
    cannot_be_read,
    disk_error,
    disk_errors,
    first_line,
    is_disk_full,
    one_line,
    shortened,
    shown,
)


@pytest.mark.parametrize(
    ("error", "whole", "first"),
    [
        (ValueError("a  b\n\tc"), "a b c", "a b"),
        (ValueError("\n \n a \n b"), "a b", "a"),
        (ValueError("  "), "ValueError", "ValueError"),
        (KeyError("genre"), "'genre'", "'genre'"),
        ("text\r\nmore", "text more", "text"),
        ("", "", ""),
    ],
)
def test_a_message_becomes_one_line(error: BaseException | str, whole: str, first: str) -> None:
    assert one_line(error) == whole
    assert first_line(error) == first


def test_messages_are_cut_where_a_length_is_given() -> None:
    error = ValueError("x" * 1000)
    assert one_line(error) == "x" * 1000
    assert one_line(error, 3) == "xxx"
    assert first_line(error) == "x" * MAX_MESSAGE
    assert first_line(error, None) == "x" * 1000


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("a\n b", "a b"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        ("a" + " " * 1000 + "b", "a…"),
        ("long text " * 10**5, ("long text " * 6)[:59] + "…"),
    ],
)
def test_a_long_text_is_shortened(text: str, short: str) -> None:
    assert shortened(text) == short
    assert shown(text) == repr(short)


def nested(depth: int) -> list[object]:
    """Lists within each other."""
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def test_a_message_shows_any_value_in_a_few_words() -> None:
    for value, short in (
        (True, "True"),
        ({"a": [1, None]}, "{'a': [1, None]}"),
        (10**39, str(10**39)),
        (10**5000, "a number of more than 40 digits"),
        (-(10**5000), "a number of more than 40 digits"),
        ([10**5000], "[a number of more than 40 digits]"),
        (nested(100_000), "[[[[[...]]]]]"),
        (list(range(1000)), "[0, 1, 2, 3, 4, 5, ...]"),
        ([["x" * 100]], "[['" + "x" * 56 + "…"),
    ):
        assert shown(value) == short


def fill(monkeypatch: pytest.MonkeyPatch, folder: Path, free: int) -> None:
    """Lets the disk of `folder`, of 36 MB, have `free` bytes left, and every other folder much more."""

    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free if path == folder else 10**9, total=36_000_000)

    monkeypatch.setattr(errors.shutil, "disk_usage", usage)


FULL_MESSAGES = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device"),
    OSError("1000000 requested and 161776 written"),
    RuntimeError("Error in void write_index: write error in x.faiss: 4051 != 5120000 (No space left on device)"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL_MESSAGES, ids=lambda error: str(error)[:24])
def test_a_full_disk_is_told_whichever_library_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fill(monkeypatch, tmp_path, 4096)
    mount = next(parent for parent in (tmp_path, *tmp_path.parents) if parent.is_mount())
    with pytest.raises(DiskError) as caught, disk_errors(tmp_path, "choose another --out"):
        raise error
    assert str(caught.value) == (
        f"{tmp_path}: No space left on device (the disk {mount} has 0.0 of 36.0 MB left, which is too little); free "
        "some space, or choose another --out"
    )
    assert (caught.value.errno, caught.value.__suppress_context__) == (errno.ENOSPC, True)
    assert is_disk_full(error)


def test_the_folder_that_is_full_is_named_and_not_the_source_of_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying = OSError(errno.ENOSPC, "No space left on device", "/elsewhere/source", None, str(tmp_path / "draft/copy"))
    found = disk_error(copying, tmp_path, "choose another --out")
    assert str(found).startswith(f"{tmp_path}: No space left on device (")
    other = disk_error(OSError(errno.ENOSPC, "", "/proc/other/file"), tmp_path, "choose another --out")
    assert str(other).startswith("/proc/other: No space left on device (")
    assert str(other).endswith("; free some space")
    fill(monkeypatch, Path(tempfile.gettempdir()), 0)
    temporary = disk_error(OSError(errno.ENOSPC, ""), tmp_path / "not/there/yet", "choose another --out")
    assert str(temporary).startswith(f"{tempfile.gettempdir()}: No space left on device (the disk ")


def test_a_disk_without_room_for_another_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = SimpleNamespace(f_files=65_536, f_favail=0, f_bavail=9, f_frsize=4096, f_blocks=10, f_bfree=9)
    monkeypatch.setattr(errors.os, "statvfs", lambda _: counts)
    found = disk_error(OSError(errno.ENOSPC, ""), tmp_path, "choose another --out")
    assert "(no file can be created on the disk " in str(found)
    assert "which holds 65,536)" in str(found)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EDQUOT, "free some of your quota, or choose another --out"),
        (errno.EROFS, "mount it for writing, or choose another --out"),
        (errno.EACCES, "give this user access (chmod, chown), or choose another --out"),
        (errno.EFBIG, "raise the limit of a file's size (ulimit -f)"),
        (errno.EMFILE, "raise the limit of open files (ulimit -n)"),
        (errno.EIO, "check the disk and its connection (dmesg), or choose another --out"),
    ],
)
def test_other_faults_of_a_disk_name_the_file_and_a_remedy(tmp_path: Path, number: int, remedy: str) -> None:
    file = tmp_path / "new"
    named = file if number != errno.EDQUOT else tmp_path
    assert str(disk_error(OSError(number, "", str(file)), tmp_path, "choose another --out")) == (
        f"{named}: {os.strerror(number)}; {remedy}"
    )
    assert str(disk_error(OSError(number, ""), tmp_path, "choose another --out")).startswith(f"{tmp_path}: ")
    elsewhere = disk_error(OSError(number, "", "/proc/read/this"), tmp_path, "choose another --out")
    assert "--out" not in str(elsewhere)


def test_a_full_disk_is_told_by_the_outer_folder_and_its_remedy(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        with disk_errors(tmp_path, "choose another --out"), disk_errors(tmp_path / ".draft/x", "set [warehouse] path"):
            raise OSError(number, "", str(tmp_path / ".draft/x/file"))

    with pytest.raises(DiskError, match=f"^{tmp_path}: No space .*, or choose another --out$"):
        fail(errno.ENOSPC)
    with pytest.raises(DiskError, match=f"^{tmp_path}/.draft/x/file: Permission denied; .*, or choose another --out$"):
        fail(errno.EACCES)
    apart = DiskError(errno.ENOSPC, Path("/proc"), "set TMPDIR")
    assert apart.seen_from(tmp_path, "choose another --out") is apart


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "No such file", "x"), RuntimeError("shape"), OSError("odd"), KeyError("x")],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_another_kind_pass(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, disk_errors(tmp_path, "choose another --out"):
        raise error
    assert caught.value is error
    assert not is_disk_full(error)


def test_a_file_beyond_the_limit_of_the_system_is_told(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DiskError, match=f"^{tmp_path}: File too large; raise"), disk_errors(tmp_path, "choose"):
            (tmp_path / "file").write_bytes(b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error"), "(Input/output error); check the disk and its connection (dmesg)"),
        (PermissionError(errno.EACCES, "Denied"), "(Denied); give this user access (chmod, chown)"),
        (OSError(errno.ENOMEM, "No memory"), "(No memory); end other programs, which leave too little memory"),
        (OSError(errno.EMFILE, "Too many"), "(Too many); raise the limit of open files (ulimit -n)"),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), "(Is a directory); rebuild it"),
    ],
)
def test_what_cannot_be_read_is_not_to_be_rebuilt_for_a_fault_of_the_machine(error: OSError, said: str) -> None:
    assert cannot_be_read(error, "rebuild it") == f"cannot be read {said}"
