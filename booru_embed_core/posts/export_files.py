"""The files of an export, from the patterns of ``[posts] export``, and what reports call them."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from booru_embed_core.posts.readers.registry import export_suffixes
from booru_embed_core.posts.rejects import REJECTS_FILE
from booru_embed_core.posts.report import REPORT_FILE
from booru_embed_core.posts.validation import ExportError


def expand_export(patterns: Sequence[str], root: Path) -> list[Path]:
    """The export's files, sorted and each once; relative patterns (with ``*``, ``**``, ``?``) start from `root`.

    A folder stands for the export files in it and below, found by the readers' suffixes. In a folder of posts that
    this project wrote, only the posts count.

    Raises:
        ExportError: a pattern matches no file, or a file is empty.
    """
    files: set[Path] = set()
    for pattern in patterns:
        literal = root / pattern
        # An existing file is meant by its name, although the name may hold characters of a pattern.
        # `root` is no part of the pattern.
        names = [pattern] if literal.exists() else glob.glob(pattern, root_dir=root, recursive=True)
        found = [file for name in names for file in _files_of(root / name)]
        if not found:
            raise ExportError(f"{literal}: no such export file; correct [posts] export or put the file there")
        files.update(found)
    for file in sorted(files):
        if file.stat().st_size == 0:
            raise ExportError(f"{file}: is empty; export the posts again or remove the file")
    return sorted(files)


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.is_file() else []
    found = (file for suffix in export_suffixes() for file in path.rglob(f"*{suffix}"))
    return [file for file in found if file.is_file() and not _is_beside_posts(file)]


def _is_beside_posts(file: Path) -> bool:
    """Whether `file` lies beside posts that this project wrote and holds none: rejects, report, checksums."""
    is_written_here = all((file.parent / name).is_file() for name in (REJECTS_FILE, REPORT_FILE))
    return is_written_here and (file.name == REJECTS_FILE or file.suffix == ".json")


def file_labels(files: Sequence[Path]) -> dict[Path, str]:
    """How reports name each of `files`: relative to their common folder, so that a moved export gives the same bytes.

    Raises:
        ExportError: there is no file.
    """
    if not files:
        raise ExportError("no export file is named; set [posts] export")
    folder = os.path.commonpath([file.absolute().parent for file in files])
    return {file: file.absolute().relative_to(folder).as_posix() for file in files}
