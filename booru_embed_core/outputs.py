"""What people name as an output: never in the place of something else, and whole when it appears.

An output that is a link, or that lies in a product of a warehouse, is refused. So is whatever stands at the names of
the folders that unfinished outputs are written to, unless a process of this project has left it there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from booru_embed_core.filesystem import (
    FILE,
    FOLDER,
    LINK,
    SCRATCH_PREFIX,
    ForeignPathError,
    kind_of,
    locked_folder,
    make_folder,
    move_folder,
    remove,
    removed_on_error,
    sync,
    sync_tree,
)

_VERSION: Final = re.compile(r"[0-9a-f]{16}")
"""The name of a version in a warehouse."""
_MANIFEST: Final = "version.json"
_CURRENT: Final = "current"
_DRAFT: Final = "draft"
_SCRATCH: Final = (_DRAFT, "posts", f"{SCRATCH_PREFIX}*")
"""What a killed process leaves beside an output; ``posts`` is of booru-embed 0.2."""


def check_output_file(file: Path, option: str = "--output") -> None:
    """Checks that `file` is free, or a plain file to replace, in a folder that exists.

    Raises:
        ForeignPathError: it is a link, a folder or a device, or lies in a product of a warehouse.
        FileNotFoundError: its folder does not exist.
    """
    if not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"{file.parent}: no such folder, for {option} {file.name}; create it first")
    _check_place(file, option)
    kind = kind_of(file)
    if kind not in (None, FILE):
        raise ForeignPathError(f"{file}: is {kind}; name a file as {option}")


def check_output_folder(folder: Path, option: str = "--output") -> None:
    """Checks that `folder` is free, or an empty folder.

    Raises:
        ForeignPathError: it is a link, or lies in a product of a warehouse.
        FileExistsError: it is something else.
    """
    _check_place(folder, option)
    kind = kind_of(folder)
    if kind is not None and (kind != FOLDER or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: exists and is not an empty folder; remove it or name another {option}")


def _check_place(path: Path, option: str) -> None:
    if kind_of(path) == LINK:
        raise ForeignPathError(f"{path}: is a link to {os.readlink(path)}; remove it, or name another {option}")
    product = _product_above(path)
    if product is not None:
        raise ForeignPathError(f"{path}: lies in {product}, a product of a warehouse; name an {option} elsewhere")


def _product_above(path: Path) -> Path | None:
    """The folder above `path` that holds a version of an asset, or its versions."""
    folder = Path(os.path.realpath(path.absolute().parent))
    for one in (folder, *folder.parents):
        if (_VERSION.fullmatch(one.name) and os.path.lexists(one / _MANIFEST)) or _holds_versions(one):
            return one
    return None


def _holds_versions(folder: Path) -> bool:
    try:
        return _VERSION.fullmatch(os.readlink(folder / _CURRENT)) is not None
    except OSError:
        return False


@contextmanager
def new_folder(folder: Path, option: str = "--output") -> Iterator[Path]:
    """An empty folder to write to; it becomes `folder` when the block ends without an error.

    It appears whole, also after a power cut, or not at all. The folder above the one that is written to may hold
    temporary files, named as by `scratch_folder`. Both lie beside `folder`, always under the same name: what a killed
    process has left there is removed first.

    Raises:
        ForeignPathError, FileExistsError: as `check_output_folder` and `claimed_folder`.
    """
    check_output_folder(folder, option)
    final = folder.absolute()
    with _with_parents(final.parent):
        scratch = final.parent / f".{final.name}.booru-embed"
        with claimed_folder(scratch, _SCRATCH, option), removed_on_error(scratch):
            for left in scratch.iterdir():
                remove(left)
            draft = scratch / _DRAFT
            draft.mkdir()
            yield draft
            sync_tree(draft)
            move_folder(draft, final)
            sync(final.parent)
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def claimed_folder(folder: Path, names: Sequence[str], option: str = "--output") -> Iterator[None]:
    """Creates `folder` if it is missing, and locks it until the block ends; then it is removed if it is empty.

    Args:
        folder: where unfinished files are kept.
        names: patterns of the files and folders that this project puts there.
        option: what to change if the folder belongs to somebody else.

    Raises:
        ForeignPathError: it is no folder, or holds something else, which might be overwritten or removed; or another
            process has locked it.
    """
    with ExitStack() as stack:
        while True:
            make_folder(folder)
            try:
                if stack.enter_context(locked_folder(folder)):
                    break
            except FileNotFoundError:
                pass  # its owner has just removed it
            except BlockingIOError:
                raise ForeignPathError(
                    f"{folder}: another process writes it; wait for it or name another {option}"
                ) from None
            stack.close()
        for path in folder.iterdir():
            is_ours = kind_of(path) in (FILE, FOLDER) and any(fnmatchcase(path.name, name) for name in names)
            if not is_ours:
                raise ForeignPathError(
                    f"{path}: stands where booru-embed keeps unfinished files, but is none of them; move it "
                    f"away, or name another {option}"
                )
        stack.callback(_remove_empty, folder)
        yield


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _with_parents(folder: Path) -> Iterator[None]:
    """Creates `folder` and those above it; removes those that it has created if the block fails."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for one in missing:
            _remove_empty(one)
        raise
    for one in missing:
        sync(one.parent)
