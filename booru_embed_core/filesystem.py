"""Files and folders as both packages write them: scratch space, locks, atomic files, hashes, syncing to disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Final

FILE: Final = "a file"
FOLDER: Final = "a folder"
LINK: Final = "a link"
SCRATCH_PREFIX: Final = "booru-embed-"

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
def locked_folder(folder: Path, *, wait: bool = False) -> Iterator[int]:
    """Locks `folder` for this process until the block ends and gives its descriptor. POSIX only.

    With `wait`, waits until it is free. The lock is a ``flock``: a killed process loses it, so nobody has to remove it
    by hand.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is off.
    """
    import fcntl  # not on Windows, where a checkpoint can be loaded all the same

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


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


def kind_of(path: Path) -> str | None:
    """What `path` itself is, such as ``a link``, whatever it leads to; None if there is nothing."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    kinds = {stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFLNK: LINK, stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device")


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
    """Flushes the file or folder `path` to disk; of a folder these are the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FAT drivers cannot flush folders; nothing more can be done there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    finally:
        os.close(descriptor)
