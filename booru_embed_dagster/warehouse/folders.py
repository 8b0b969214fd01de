"""Folders on disk as the warehouse needs them: their size, who may read them, that they are on disk at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def folder_bytes(folder: Path) -> int:
    """The size of all files below `folder`; one that vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def let_others_read(folder: Path, mode: int) -> None:
    """Gives all files below `folder` the `mode` of one that was made plainly.

    Some writers (safetensors' among them) make files that their owner alone can read; the umask is to decide that.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def sync_tree(folder: Path) -> None:
    """Waits until `folder` and all below it are on disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Waits until the file or folder `path` is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
