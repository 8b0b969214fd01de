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


@contextmanager
def scratch_folder(temp_dir: Path | None = None) -> Iterator[Path]:
    """A new folder below `temp_dir` (None: the system's folder for temporary files); removed on leaving."""
    with tempfile.TemporaryDirectory(prefix="booru-embed-", dir=temp_dir) as folder:
        yield Path(folder)


@contextmanager
def locked_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Locks `folder` for this process until the block ends; with `wait`, waits until it is free. POSIX only.

    The lock is a ``flock``: a killed process loses it, so nobody has to remove it by hand.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is off.
    """
    import fcntl  # not on Windows, where a checkpoint can be loaded all the same

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; it replaces `file` when the block ends without an error.

    A reader sees the old content or the new content, never a part of it. The path is `file` with ``.partial`` added:
    a killed process leaves one such file at most, which the next one overwrites. After an error it is removed.
    """
    partial = file.with_name(file.name + ".partial")
    with removed_on_error(partial):
        yield partial
        sync(partial)
        partial.replace(file)


@contextmanager
def removed_on_error(path: Path) -> Iterator[None]:
    """Removes the unfinished file or folder `path` if the block fails: on a full disk it would keep the room."""
    try:
        yield
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise


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
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
        if path.is_file():
            path.chmod(mode)


def sync_tree(folder: Path) -> None:
    """Flushes `folder` and everything below it to disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Flushes the file or folder `path` to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
