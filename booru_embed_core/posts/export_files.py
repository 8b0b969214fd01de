"""The files of an export, from the patterns of ``[posts] export``, and what reports call them.

In a folder the suffixes of the readers tell which files may hold posts. Whether they do is seen when they are opened.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from booru_embed_core.posts.paths import IMPLICATIONS_FILE, PATHS_FILE
from booru_embed_core.posts.readers import registry
from booru_embed_core.posts.readers.archives import ARCHIVE_SUFFIXES
from booru_embed_core.posts.readers.base import ExportPath
from booru_embed_core.posts.rejects import REJECTS_FILE
from booru_embed_core.posts.report import REPORT_FILE
from booru_embed_core.posts.validation import ExportError

_NUM_NAMED: Final = 20
DESCRIPTIONS: Final = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
"""What `datasets` writes beside its data, in its repositories and by save_to_disk."""

_MEDIA_SUFFIXES: Final = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".jxl", ".png", ".tif", ".tiff", ".webp"),
    *(".mkv", ".mov", ".mp3", ".mp4", ".swf", ".webm"),
)


@dataclass(frozen=True)
class ExportFiles:
    """What an export consists of.

    Attributes:
        files: files, and folders that a reader opens as a whole; sorted.
        searched: those of them that were found in a folder: they may hold something else than posts.
        left_out: files and folders in these folders that hold no posts; of many, the first ones and their number.
    """

    files: tuple[Path, ...]
    searched: frozenset[Path] = frozenset()
    left_out: tuple[Path, ...] = ()


def find_export(patterns: Sequence[str], root: Path) -> ExportFiles:
    """The export's files, each once; relative patterns (with ``*``, ``**``, ``?``) start from `root`.

    A folder stands for the export files in it and below, found by the readers' suffixes, unless a reader opens the
    folder itself. Folders whose names begin with a point are left out. In a folder of posts that this project wrote,
    only the posts count.

    Raises:
        ExportError: a pattern matches no file, or a file is empty.
    """
    named: set[Path] = set()
    searched: set[Path] = set()
    left_out: set[Path] = set()
    for pattern in patterns:
        found = [(root / name, _contents(root / name)) for name in _names(pattern, root)]
        if not any(contents.files for _, contents in found):
            raise ExportError(f"{root / pattern}: no such export file{_instead([one for _, one in found])}")
        for path, contents in found:
            (searched if contents.files != [path] else named).update(contents.files)
            left_out.update(contents.left_out())
    files = sorted(named | searched)
    for file in files:
        if file.is_file() and file.stat().st_size == 0:
            raise ExportError(f"{file}: is empty; export the posts again or remove the file")
    return ExportFiles(tuple(files), frozenset(searched - named), tuple(sorted(left_out - set(files))))


def expand_export(patterns: Sequence[str], root: Path) -> list[Path]:
    """The files of `find_export`, which tells more about them."""
    return list(find_export(patterns, root).files)


def files_in(path: Path) -> list[Path]:
    """`path` itself; of a folder all files in it and below that are no images or videos, sorted."""
    if not path.is_dir():
        return [path]
    return sorted(
        file
        for folder, _, names in os.walk(path)
        for file in (Path(folder, name) for name in names)
        if file.suffix.lower() not in _MEDIA_SUFFIXES and file.is_file()
    )


def file_labels(files: Sequence[Path]) -> dict[Path, str]:
    """How reports name each of `files`: relative to their common folder, so that a moved export gives the same bytes.

    Raises:
        ExportError: there is no file.
    """
    if not files:
        raise ExportError("no export file is named; set [posts] export")
    folder = os.path.commonpath([file.absolute().parent for file in files])
    return {file: file.absolute().relative_to(folder).as_posix() for file in files}


def _names(pattern: str, root: Path) -> list[str]:
    # An existing file is meant by its name, although the name may hold characters of a pattern.
    # `root` is no part of the pattern.
    return [pattern] if (root / pattern).exists() else glob.glob(pattern, root_dir=root, recursive=True)


@dataclass
class _Others:
    """Files of a folder that hold no posts."""

    named: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, name: str) -> None:
        """Counts the file or folder `name`."""
        self.kinds["folder" if name.endswith("/") else Path(name).suffix.lower() or "without suffix"] += 1
        if len(self.named) < _NUM_NAMED:
            self.named.append(name)


@dataclass
class _Contents:
    """What was found for one path: files that may hold posts, and others by their folder."""

    files: list[Path] = field(default_factory=list)
    others: dict[Path, _Others] = field(default_factory=dict)

    def left_out(self) -> Iterator[Path]:
        """The other files; behind the first ones of a folder a name that counts its rest."""
        for folder, others in self.others.items():
            yield from (folder / name for name in others.named)
            if more := others.kinds.total() - len(others.named):
                yield folder / f"{more:,} more ({_shown(others.kinds)} in all)"


def _contents(path: Path) -> _Contents:
    if not path.is_dir():
        return _Contents([path] if path.is_file() else [])
    if any(reader.opens(ExportPath(path)) for reader in registry.READERS):
        return _Contents([path])
    contents = _Contents()
    suffixes = (*registry.export_suffixes(), *ARCHIVE_SUFFIXES)
    for parent, folders, names in os.walk(path):
        folder, others = Path(parent), _Others()
        hidden = sorted(name for name in folders if name.startswith("."))
        folders[:] = sorted(set(folders) - set(hidden))
        is_written_here = all(name in names for name in (REJECTS_FILE, REPORT_FILE))
        for name in (*(f"{name}/" for name in hidden), *sorted(names)):
            if is_written_here and (name in (REJECTS_FILE, PATHS_FILE, IMPLICATIONS_FILE) or name.endswith(".json")):
                continue
            is_cache = "state.json" in names and name.startswith("cache-")  # of `datasets`, which maps posts
            is_other = name.startswith(".") or name in DESCRIPTIONS or is_cache or _is_other_database(folder / name)
            if name.lower().endswith(suffixes) and not is_other:
                contents.files += [folder / name] if (folder / name).is_file() else []
            else:
                others.add(name)
        if others.named:
            contents.others[folder] = others
    return contents


def _is_other_database(file: Path) -> bool:
    """Whether `file` is called like SQLite's and is none, as Windows' Thumbs.db."""
    if file.suffix.lower() != ".db" or not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(6) != b"SQLite"


def _shown(kinds: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5))


def _instead(found: Sequence[_Contents]) -> str:
    """What stands in the folders where no export file was found, and the remedy."""
    kinds = sum((others.kinds for contents in found for others in contents.others.values()), Counter[str]())
    if kinds:
        return (
            f" among its {kinds.total():,} files ({_shown(kinds)}); what is read is called like posts.csv, posts.json, "
            "posts.parquet, or image.txt and image.jpg.json for captions; name the files to read in [posts] export"
        )
    return "; correct [posts] export or put the file there"
