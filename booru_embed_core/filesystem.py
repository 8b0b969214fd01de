"""Files and folders as both packages write them: scratch space, locks, atomic files, hashes, syncing to disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Final

FILE: Final = "a file"
FOLDER: Final = "a folder"
LINK: Final = "a link"
SCRATCH_PREFIX: Final = "booru-embed-"
_CURRENT: Final = "current"
_FOLDER_NAME: Final = re.compile(r"\w+")
_MAX_NAME_BYTES: Final = 256
_LOCK_PAUSE_SECONDS: Final = 0.1
"""Between two attempts to lock, where nothing wakes a process that waits."""

_unfinished: Final[list[Path]] = []
"""What `remove_unfinished` removes: only the whole process knows it when a signal ends it."""


class ForeignPathError(ValueError):
    """Something else stands where this project would write or remove; the message names it and a remedy in one line."""


@contextmanager
def scratch_folder(temp_dir: Path | None = None) -> Iterator[Path]:
    """A new folder below `temp_dir` (None: the system's folder for temporary files); removed on leaving."""
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=temp_dir, ignore_cleanup_errors=True) as folder,
        _recorded(Path(folder)),
    ):
        yield Path(folder)


@contextmanager
def locked_folder(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Locks `folder` for this process until the block ends; whether it still stands there: its owner may remove it.

    With `wait`, waits until it is free. A killed process loses its lock, so nobody has to remove it by hand. The lock
    is a ``flock`` of the folder. Windows cannot lock a folder: there it is a file beside it, which ends with its lock.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is off.
    """
    descriptor = _open_lock(folder)
    try:
        while not _lock(descriptor, wait=wait):
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "another process has locked it", str(folder))
            time.sleep(_LOCK_PAUSE_SECONDS)
        yield _is_locked_by(descriptor, folder)
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _open_lock(folder: Path) -> int:
        return os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_TEMPORARY)

    def _lock(descriptor: int, *, wait: bool) -> bool:  # noqa: ARG001  its wait ends after ten seconds
        with contextlib.suppress(PermissionError):
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            return True
        return False

    def _is_locked_by(descriptor: int, folder: Path) -> bool:  # noqa: ARG001  it is of the file beside
        return folder.is_dir()
else:
    import fcntl

    def _open_lock(folder: Path) -> int:
        return os.open(folder, os.O_RDONLY)

    def _lock(descriptor: int, *, wait: bool) -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return True
        return False

    def _is_locked_by(descriptor: int, folder: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), os.lstat(folder))
        return False


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; it replaces `file` when the block ends without an error.

    A reader sees the old content or the new content, never a part of it, also after a power cut. The path is `file`
    with ``.partial`` added: a killed process leaves one such file at most, which the next one replaces. After an error
    it is removed. A link `file` is replaced itself, never its target.

    Raises:
        ForeignPathError: the path is a link, a folder or a device.
    """
    partial = file.with_name(file.name + ".partial")
    _create_file(partial)
    with removed_on_error(partial):
        yield partial
        sync(partial)
        partial.replace(file)
    sync(file.parent)


def _create_file(file: Path) -> None:
    """Creates `file` empty, in place of a plain file; nothing is written through a link, symbolic or hard."""
    kind = kind_of(file)
    if kind not in (None, FILE):
        raise ForeignPathError(f"{file}: is {kind}, where an unfinished file is to be written; move it away")
    file.unlink(missing_ok=True)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


@contextmanager
def removed_on_error(path: Path) -> Iterator[None]:
    """Removes the unfinished file or folder `path` if the block fails: on a full disk it would keep the room."""
    with _recorded(path):
        try:
            yield
        except BaseException:
            remove(path)
            raise


@contextmanager
def _recorded(path: Path) -> Iterator[None]:
    """Lets `remove_unfinished` remove `path` until the block ends."""
    _unfinished.append(path)
    try:
        yield
    finally:
        _unfinished.remove(path)


def remove_unfinished() -> None:
    """Removes the unfinished files and scratch folders of this process, which is about to end.

    Blocks remove their own. Those of a native call that a signal cannot interrupt never get to it.
    """
    for path in reversed(_unfinished):
        remove(path)


def remove(path: Path) -> None:
    """Removes the file, the link or the folder `path`, as far as that is possible; no link is followed."""
    if kind_of(path) == FOLDER:
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def move_folder(folder: Path, target: Path) -> None:
    """Renames `folder` to `target`, where nothing is, or an empty folder."""
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            target.rmdir()  # it replaces no folder
    folder.replace(target)


def kind_of(path: Path) -> str | None:
    """What `path` itself is, such as ``a link``, whatever it leads to; None if there is nothing."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    kinds = {stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFLNK: LINK, stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def followed(path: Path) -> Path:
    """`path`, where a file ``current`` in it that names a folder beside it counts as a link to that folder.

    git and archives leave such a file of a warehouse's link where links need a privilege, as on Windows.
    """
    for one in (path, *path.parents):
        if one.name == _CURRENT and one.is_file() and one.stat().st_size <= _MAX_NAME_BYTES:
            version = one.read_text(encoding="utf-8", errors="replace").strip()
            if _FOLDER_NAME.fullmatch(version):
                return one.with_name(version) / path.relative_to(one)
    return path


def make_folder(folder: Path) -> None:
    """Creates the folder `folder` if it is missing; its parent exists.

    Raises:
        ForeignPathError: it is a link, or something else.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    kind = kind_of(folder)
    if kind not in (None, FOLDER):  # another process may have removed it meanwhile
        raise ForeignPathError(f"{folder}: is {kind}, where a folder is needed; move it away")


def open_regular(file: Path) -> BufferedReader:
    """`file`, open for reading, if it is a plain file or a link to one: a pipe without a writer would block for ever.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    stream = open(file, "rb", opener=_at_once)  # noqa: SIM115  the caller closes it
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "not a plain file", str(file))
    return stream


def _at_once(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # not on Windows, which has no such pipes


def file_sha256(file: Path) -> str:
    """The SHA-256 of the content of `file`, in hex.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(file) as stream:
        try:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            error.filename = str(file)  # a read names no file
            raise


def folder_bytes(folder: Path) -> int:
    """The size of all files below `folder`, in bytes; a file that vanishes meanwhile counts as empty."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def set_file_modes(folder: Path, mode: int) -> None:
    """Gives all files below `folder` the permissions `mode`.

    Some writers, such as safetensors, create files that only their owner can read, whatever the umask.
    """
    for path in folder.rglob("*"):
        if kind_of(path) == FILE:
            path.chmod(mode)


def sync_tree(folder: Path) -> None:
    """Flushes `folder` and everything below it to disk; what a link leads to is not part of it."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if kind_of(Path(parent, name)) == FILE:
                sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Flushes the file or folder `path` to disk; of a folder these are the names in it, except on Windows."""
    if sys.platform == "win32" and path.is_dir():
        return  # it opens no folders
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)  # it flushes what it may write
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FAT drivers cannot flush folders; nothing more can be done there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    finally:
        os.close(descriptor)
