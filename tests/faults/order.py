"""What a power cut may undo: checks that what a rename publishes is on disk before it, and the rename after it.

A disk keeps the order of writes only where ``fsync`` asks for it: content of a file that was not synced may be missing
below a name that survives, and a name is lost unless its folder is synced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.faults.injector import Call

WRITES = ("write", "truncate", "create", "allocate")
NAMES = ("create", "mkdir", "symlink", "link")
WORK = ".work"
NEVER_PUBLISHED = (".drafts", "tmp")
"""Folders whose content may be lost: what is renamed into them is on its way out."""


def broken_promises(calls: Sequence[Call], folder: Path, new_files: Iterable[str]) -> Iterator[str]:
    """What a power cut may undo of a run in `folder`, whose end has `new_files` that readers look at.

    Every new file must have been synced after it was written, and before it was renamed to a name that readers look
    at; the name of a version before the link to it moves; and every folder after a name in it has changed.
    """
    dirty: set[Path] = set()
    """What was changed since it was last synced: files written to, and folders in which names were made."""
    synced: set[Path] = set()
    renamed: dict[Path, str] = {}
    """Folders in which a published name was made by a rename, until they are synced."""
    for call in calls:
        path = call.path
        if call.name == "fsync":
            synced.add(path)
            dirty.discard(path)
            renamed.pop(path, None)
        elif call.name == "rename":
            target = Path(call.other)
            moved = {one for one in dirty if one == path or path in one.parents}
            dirty = dirty - moved | {target / one.relative_to(path) for one in moved}
            synced |= {target / one.relative_to(path) for one in synced if one == path or path in one.parents}
            if is_published(target, folder):
                kept = {one for one in moved if is_kept(target / one.relative_to(path), folder, new_files)}
                for one in sorted(kept):
                    yield f"{shown(target, folder)}: {one.relative_to(path.parent)} was not synced before the rename"
                if target.name == "current" and target.parent in renamed:
                    yield f"{shown(target, folder)}: its version's name was not synced before the link moved"
                renamed[target.parent] = shown(target, folder)
            dirty.add(target.parent)
        elif call.name in ("unlink", "rmdir"):
            dirty = {one for one in dirty if one != path and path not in one.parents}
        else:
            if call.name in WRITES:
                dirty.add(path)
            if call.name in NAMES:
                dirty.add(path.parent)
    for parent, name in renamed.items():
        yield f"{name}: {parent.name} was not synced after the rename"
    for name in sorted(new_files):
        if folder / name not in synced:
            yield f"{name}: was never synced"
        elif folder / name in dirty:
            yield f"{name}: was changed after it was synced"


def is_kept(path: Path, folder: Path, new_files: Iterable[str]) -> bool:
    """Whether `path` is there in the end, or may have been removed since.

    safetensors writes to ``.tmp…`` and renames that by a system call of its own, which the injector does not see.
    """
    name = shown(path, folder)
    is_removed = WORK in path.parts and not path.name.startswith(".tmp")
    return any(one == name or one.startswith(f"{name}/") for one in new_files) or is_removed


def is_published(path: Path, folder: Path) -> bool:
    """Whether readers, or a later run, look at `path`."""
    return not set(path.relative_to(folder).parts) & set(NEVER_PUBLISHED)


def shown(path: Path, folder: Path) -> str:
    """`path` for a message."""
    return path.relative_to(folder).as_posix()
