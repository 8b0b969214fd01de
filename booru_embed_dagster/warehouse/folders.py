"""The folder of an asset in the warehouse: what may be written and removed there, its lock and its history.

A link in the place of a folder or a file is never followed for that. What a user has linked can still be read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from booru_embed_core.filesystem import (
    FILE,
    FOLDER,
    LINK,
    kind_of,
    locked_folder,
    make_folder,
    open_regular,
    remove,
    sync,
)
from booru_embed_core.version_file import read_version
from booru_embed_dagster.warehouse.manifests import MANIFEST, VERSION_DIGITS, WarehouseError

CURRENT: Final = "current"
DRAFTS: Final = ".drafts"
WORK: Final = ".work"
HISTORY: Final = ".history"
WORK_HISTORY: Final = ".work-history"
LOCK: Final = ".lock"
_VERSION: Final = re.compile(f"[0-9a-f]{{{VERSION_DIGITS}}}")
_DRAFT: Final = re.compile("[0-9a-f]{32}")
_NO_LINKS: Final = "nothing is written or removed through links"


def check_home(home: Path) -> None:
    """Checks that an asset's folder `home` may be written to: it is missing, or laid out as this project does it.

    Raises:
        WarehouseError: a link or something else stands at the name of a folder or a file.
    """
    if (kind := kind_of(home)) == LINK:
        raise WarehouseError(
            f"{home}: is a link, and {_NO_LINKS}; mount the other disk there (mount --bind), or set [warehouse] path "
            "to a folder on it"
        )
    _check(home, kind, FOLDER)
    if kind is None:
        return
    check_current(home)
    for name in (DRAFTS, WORK, LOCK, HISTORY, WORK_HISTORY):
        _check(home / name, kind_of(home / name), FOLDER if name in (DRAFTS, WORK) else FILE)


def _check(path: Path, kind: str | None, wanted: str) -> None:
    if kind not in (None, wanted):
        because = f", and {_NO_LINKS}" if kind == LINK else ""
        raise WarehouseError(f"{path}: is {kind} in the place of {wanted}{because}; move it away")


def check_current(home: Path) -> None:
    """Checks that ``current`` of `home` is a link, or missing.

    Raises:
        WarehouseError: it is a folder, as after a copy that followed links; the message says how to undo that.
    """
    current = home / CURRENT
    kind = kind_of(current)
    if kind in (None, LINK):
        return
    told = f"{current}: is {kind} and not a link, as after a copy that followed links; copy with `cp -a` or `rsync -a`"
    version = _version_in(current)
    if version is None:
        raise WarehouseError(f"{told}, or move it away and materialize {home.name}")
    is_copied = (home / version / MANIFEST).is_file()
    undo = ["rm", "-r", str(current)] if is_copied else ["mv", str(current), str(home / version)]
    link = ["ln", "-s", version, str(current)]
    raise WarehouseError(f"{told}, or run: {shlex.join(undo)} && {shlex.join(link)}")


def _version_in(folder: Path) -> str | None:
    """The version that the manifest in `folder` names, whatever the folder is called."""
    with contextlib.suppress(WarehouseError):
        found = read_version(folder, WarehouseError, "")
        return found.version if found and is_version(found.version) else None
    return None


def is_version(name: str) -> bool:
    """Whether `name` is one that a version can have: hex digits, and so no path."""
    return _VERSION.fullmatch(name) is not None


def linked(home: Path) -> str | None:
    """The version that ``current`` of `home` leads to; None if there is no link, or it leads elsewhere."""
    with contextlib.suppress(OSError):
        target = os.readlink(home / CURRENT)
        return target if is_version(target) else None
    return None


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder`; no links, and none at all if `folder` is a link or missing."""
    if kind_of(folder) != FOLDER:
        return []
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in folder.iterdir() if kind_of(path) == FOLDER)
    return []


def draft_folders(home: Path) -> list[Path]:
    """The drafts of an asset, by their names: what else a person keeps there is not touched."""
    return [folder for folder in subfolders(home / DRAFTS) if _DRAFT.fullmatch(folder.name)]


def work_folders(home: Path) -> list[Path]:
    """The work folders of an asset, the newest first; those without a history by their time."""
    folders = [folder for folder in subfolders(home / WORK) if is_version(folder.name)]
    names = [folder.name for folder in sorted(folders, key=_changed, reverse=True)]
    return [home / WORK / name for name in latest_first(names, history(home / WORK_HISTORY))]


def _changed(folder: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return folder.stat().st_mtime
    return 0.0


def history(file: Path) -> list[str]:
    """The names in `file`, the latest last; what a crash or a bad disk made of a line is the name of nothing."""
    with contextlib.suppress(OSError), open_regular(file) as stream:
        return stream.read().decode("ascii", errors="replace").split()
    return []


def add_to_history(file: Path, name: str) -> None:
    """Adds `name` to `file`, on disk when this returns, unless it is the latest."""
    if history(file)[-1:] == [name]:
        return
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with open(os.open(file, flags, 0o666), "r+b", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        is_torn = size > 0 and os.pread(stream.fileno(), 1, size - 1) != b"\n"  # by a power cut
        stream.write(f"{chr(10) * is_torn}{name}\n".encode())
        os.fsync(stream.fileno())


def latest_first(names: list[str], before: list[str]) -> list[str]:
    """The `names` in the order in which `before` has them for the last time, reversed; others follow as they are."""
    known = [name for name in dict.fromkeys(reversed(before)) if name in set(names)]
    return [*known, *(name for name in names if name not in set(known))]


def make_home(home: Path) -> None:
    """Creates the asset's folder `home`, on disk when this returns."""
    if not home.exists():
        home.mkdir(parents=True, exist_ok=True)
        sync(home.parent)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks `folder` for this process until the block ends.

    Raises:
        WarehouseError: another process has locked it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder))
        except BlockingIOError:
            raise WarehouseError(f"{folder}: another process works on these inputs; wait for it or stop it") from None
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process has locked `folder`."""
    try:
        with lock_folder(folder):
            return False
    except FileNotFoundError:
        return False
    except WarehouseError:
        return True


def remove_unless_locked(folder: Path) -> None:
    """Removes the draft or work folder `folder`, which may vanish at any moment: its owner removes it when done.

    It is renamed first: a kill while deleting leaves a dead draft, and no part of a training to resume from.
    """
    grave = folder.parent.with_name(DRAFTS) / uuid.uuid4().hex
    with contextlib.suppress(WarehouseError, OSError), lock_folder(folder):
        make_folder(grave.parent)
        os.rename(folder, grave)
        remove(grave)


@contextlib.contextmanager
def lock_names(home: Path) -> Iterator[None]:
    """Waits for the lock under which names in `home` change, and holds it until the block ends."""
    # A file opened for writing and not the folder: NFS passes only the locks of such files on to other nodes.
    descriptor = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
