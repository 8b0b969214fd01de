"""Which files of a folder or an archive are captions: one text a post, beside its image or alone.

==============================  =========================================================================
``a.txt``, ``a.caption``        kohya's scripts, WD taggers, BooruDatasetTagManager; also without ``a.jpg``
``a.jpg.txt``, ``a.jpg.tags``   Hydrus and gallery-dl
==============================  =========================================================================

Of several captions of one image one is read: tags before sentences. Only names are kept in memory, those of one folder
at a time: about 100 bytes a file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from booru_embed_core.posts.readers.archives import ARCHIVE_SUFFIXES, Member, is_archive, members
from booru_embed_core.posts.readers.compression import PACKED_SUFFIXES
from booru_embed_core.posts.validation import MAX_LINE_BYTES

IMAGE_SUFFIXES: Final = frozenset(
    {
        *(".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".jxl", ".png"),
        *(".psd", ".svg", ".tif", ".tiff", ".webp"),
        *(".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp3", ".mp4", ".ogg", ".swf", ".wav", ".webm"),
    }
)
"""Ends of the names of images, and of what else boorus hold."""

_CAPTION_SUFFIXES: Final = (".tags.txt", ".tags", ".txt", ".caption")
"""Ends of the names of captions, in the order of preference."""
_OTHER_TEXTS: Final = (".urls.txt", ".url.txt", ".notes.txt", ".note.txt")
_DOCUMENTS: Final = frozenset(
    {
        *("changelog", "classes", "copying", "credits", "dataset_info", "info", "licence", "license", "log", "notes"),
        *("negative_prompt", "notice", "prompt", "prompts", "readme", "requirements", "robots", "sample_prompt"),
        *("sample_prompts", "todo"),
    }
)
"""Texts of these names are no captions, unless an image of the same name lies beside them."""
_TABLES: Final = tuple(
    suffix + packed for suffix in (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet") for packed in PACKED_SUFFIXES
)
_JSON_START: Final = re.compile(rb'(\[\s*)?\{\s*["}]')
_NUM_NAMED: Final = 20
_NUM_SURVEYED: Final = 20_000
_NUM_TOLD_BY: Final = 20
_SAMPLE_BYTES: Final = 4096


@dataclass(frozen=True)
class TextFile:
    """A file of one post.

    Attributes:
        path: its path in the folder or archive, with ``/`` between names, as it can stand in a table.
        read: gives its content; one byte above `MAX_LINE_BYTES` shows that it is longer. Raises `OSError`, or
            `ValueError` where there is none.
    """

    path: str
    read: Callable[[], bytes]


@dataclass
class LeftOut:
    """What is not read of a folder or an archive: names of the first files, and counts of the others."""

    names: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    num_bare_images: int = 0
    num_captions: int = 0
    """Sentences about images that have tags."""

    def add(self, path: str, kind: str | None = None) -> None:
        """Counts the file `path` by its `kind`, by default its suffix."""
        self.kinds[kind or os.path.splitext(path)[1].lower() or "without suffix"] += 1
        if len(self.names) < _NUM_NAMED:
            self.names.append(printable(path))

    def labels(self, label: str) -> list[str]:
        """What reports say, where the folder is called `label`."""
        labels = [f"{label}/{name}" for name in self.names]
        if more := self.kinds.total() - len(self.names):
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common(5))
            labels.append(f"{label}: {more:,} more files ({kinds} in all)")
        if self.num_bare_images:
            labels.append(f"{label}: {self.num_bare_images:,} images without a caption")
        if self.num_captions:
            labels.append(f"{label}: {self.num_captions:,} captions of images that have tags")
        return labels


@dataclass(frozen=True)
class Listing:
    """The files of one folder.

    Attributes:
        captions: one caption an image, or texts without an image.
        others: files that are neither captions nor images.
        num_bare_images: images without a caption.
        num_of_images: captions that have an image, or are named after one.
    """

    captions: tuple[str, ...]
    others: tuple[str, ...]
    num_bare_images: int
    num_of_images: int

    @classmethod
    def of(cls, names: Collection[str]) -> Listing:
        """The listing of the file names of one folder."""
        names = set(names)
        images = {name for name in names if is_image(name)}
        by_stem: dict[str, list[str]] = {}
        for image in images:
            by_stem.setdefault(os.path.splitext(image)[0], []).append(image)
        chosen: dict[str, tuple[int, str]] = {}
        others: list[str] = []
        for name in sorted(names, key=lambda name: (len(name), os.fsencode(name))):
            told = _caption_of(name)
            if told is None:
                others += [] if name in images else [name]
                continue
            preference, stem = told
            partners = by_stem.get(stem, [])
            has_image = stem in names or bool(partners)
            subject = partners[0] if stem not in images and len(partners) == 1 else stem
            is_worse = subject in chosen and chosen[subject][0] <= preference
            if is_worse or (is_document(stem) and not has_image):
                others.append(name)
            else:
                others += [chosen[subject][1]] if subject in chosen else []
                chosen[subject] = preference, name
        with_caption = {
            image for subject in chosen for image in (subject, *by_stem.get(subject, ())) if image in images
        }
        num_of_images = sum(subject in names or subject in by_stem or is_image(subject) for subject in chosen)
        captions = sorted((name for _, name in chosen.values()), key=os.fsencode)
        return cls(
            tuple(captions), tuple(sorted(others, key=os.fsencode)), len(images) - len(with_caption), num_of_images
        )


def is_image(name: str) -> bool:
    """Whether a file is called as images and videos are."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_named_caption(name: str) -> bool:
    """Whether a file is called as captions are."""
    return _caption_of(name) is not None


def is_document(stem: str) -> bool:
    """Whether a text of this name, without its suffix, is about the other files."""
    return stem.lower() in _DOCUMENTS


def _caption_of(name: str) -> tuple[int, str] | None:
    """The place in the order of preference of the caption `name`, and what it is a caption of; None if it is none."""
    lower = name.lower()
    if lower.endswith(_OTHER_TEXTS):
        return None
    for preference, suffix in enumerate(_CAPTION_SUFFIXES):
        if lower.endswith(suffix) and len(name) > len(suffix):
            return preference, name[: -len(suffix)]
    return None


def printable(path: str) -> str:
    """`path` as it can stand in a table and in one line: bytes that are not UTF-8 and control characters escaped."""
    try:
        text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON may hold
        text = path.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char >= " " and char != "\x7f" else f"\\x{ord(char):02x}" for char in text)


def folder_files(
    folder: Path, left_out: LeftOut, choose: Callable[[Collection[str]], Listing] = Listing.of
) -> Iterator[TextFile]:
    """The captions in `folder` and below, in the order of the bytes of their paths; the rest is added to `left_out`.

    Hidden files and folders are left out, and so are links to folders and links that lead out of `folder`.
    """
    roots = _roots(folder)
    pending = [""]
    while pending:
        path = pending.pop()
        if path and not path.endswith("/"):
            yield TextFile(printable(path), partial(_content, folder / path))
            continue
        folders, names = _entries(folder, path, roots, left_out)
        listing = choose(names)
        left_out.num_bare_images += listing.num_bare_images
        for name in listing.others:
            left_out.add(path + name)
        found = sorted((*(f"{name}/" for name in folders), *listing.captions), key=os.fsencode, reverse=True)
        pending.extend(path + name for name in found)


def _roots(folder: Path) -> list[Path]:
    """Where links in `folder` may lead: into it; the cache of the Hugging Face Hub has the files beside its folders."""
    snapshots = [
        one for one in folder.absolute().parents if one.name == "snapshots" and (one.parent / "blobs").is_dir()
    ]
    return [folder.resolve(), *(one.parent.resolve() for one in snapshots)]


def _entries(folder: Path, path: str, roots: Sequence[Path], left_out: LeftOut) -> tuple[list[str], list[str]]:
    folders: list[str] = []
    names: list[str] = []
    with os.scandir(folder / path) as entries:
        for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                left_out.add(path + entry.name + ("/" if entry.is_dir() else ""), "hidden")
            elif entry.is_symlink() and (entry.is_dir() or not _leads_into(Path(entry.path), roots)):
                left_out.add(path + entry.name, "links")
            elif entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file():
                names.append(entry.name)
            else:
                left_out.add(path + entry.name, "no files")
    return folders, names


def _leads_into(link: Path, roots: Sequence[Path]) -> bool:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return any(target.is_relative_to(root) for root in roots)


def _content(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(MAX_LINE_BYTES + 1)


def listings(folder: Path, choose: Callable[[Collection[str]], Listing]) -> Iterator[tuple[Path, Listing]]:
    """The files of `folder` and of the folders below, up to `_NUM_SURVEYED` of them; for a look at what they are."""
    num_seen = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        visible = [name for name in names if not is_hidden(name)]
        yield Path(parent), choose(visible)
        num_seen += len(visible)
        if num_seen >= _NUM_SURVEYED:
            return


def is_caption_folder(folder: Path) -> bool:
    """Whether `folder` holds captions and no table of posts.

    Files whose names do not say that they belong to an image are captions only where nothing else could be the posts.
    """
    num_captions, num_of_images, has_others = 0, 0, False
    for parent, listing in listings(folder, Listing.of):
        if holds_table(listing.others, parent):
            return False
        num_captions += len(listing.captions)
        num_of_images += listing.num_of_images
        others = (".json", *_TABLES, *ARCHIVE_SUFFIXES)
        has_others |= any(name.lower().endswith(others) for name in listing.others)
    if num_of_images or not num_captions or has_others:
        return num_of_images > 0
    files = folder_files(folder, LeftOut())
    return not any(_holds_table(file) for file, _ in zip(files, range(_NUM_TOLD_BY), strict=False))


def holds_table(names: Collection[str], folder: Path | None = None) -> bool:
    """Whether one of the file names, of files in `folder` if it is given, is that of a table of posts."""
    tables = [name for name in names if name.lower().endswith(_TABLES)]
    return any(folder is None or not _is_other_table(folder / name) for name in tables)


def _is_other_table(file: Path) -> bool:
    """Whether `file` is a plain CSV or TSV that has no column of posts, such as a tagger's list of tags."""
    if file.suffix.lower() not in (".csv", ".tsv"):
        return False
    try:
        header = _content(file).removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].lower()
    except OSError:
        return False
    columns = re.split(rb'[,;\t|"\s]+', header)
    return any(columns) and not any(
        name in (b"id", b"post_id", b"rating") or name.startswith(b"tag_string") for name in columns
    )


def _holds_table(file: TextFile) -> bool:
    try:
        start = file.read()[:_SAMPLE_BYTES]
    except OSError:
        return False
    return is_table(start)


def is_table(start: bytes) -> bool:
    """Whether a text that begins with `start` is JSON or a table of posts, with a column of ids."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    header = text.partition(b"\n")[0].strip().replace(b'"', b"").lower()
    columns = header.replace(b"\t", b",").split(b",")
    return _JSON_START.match(text) is not None or (len(columns) > 1 and b"id" in columns)


def archive_files(file: Path, left_out: LeftOut, is_wanted: Callable[[str], bool]) -> Iterator[TextFile]:
    """The files in the archive `file` whose names are wanted, in its order; see `folder_files`.

    Each is read before the next one is asked for.
    """
    with closing(members(file)) as found:
        for member in found:
            if is_hidden(member.name) or member.size is None:
                left_out.add(member.name, "hidden" if is_hidden(member.name) else "links")
            elif is_wanted(member.name):
                yield TextFile(printable(member.name.removeprefix("./")), partial(member_content, member))
            elif not is_image(member.name):
                left_out.add(member.name)


def member_content(member: Member) -> bytes:
    """The content of `member`, cut as `TextFile` says."""
    with member.open() as stream:
        return stream.read(MAX_LINE_BYTES + 1)


def is_hidden(path: str) -> bool:
    """Whether a name in `path` begins with a point, or is macOS's own."""
    return any((name.startswith(".") and name != ".") or name == "__MACOSX" for name in path.split("/"))


def _is_caption(path: str) -> bool:
    told = _caption_of(path.rpartition("/")[2])
    return told is not None and not is_document(told[1])


def _caption_suffix(name: str) -> str:
    lower = name.lower()
    return next(suffix for suffix in _CAPTION_SUFFIXES if lower.endswith(suffix))


def is_caption(path: str, suffix: str) -> bool:
    """Whether the file `path` in an archive is a caption whose name ends with `suffix`."""
    return _is_caption(path) and _caption_suffix(path) == suffix


def archive_suffix(file: Path) -> str | None:
    """The end of the names of the captions in the archive `file`; None where it holds no captions.

    The archive is read up to its first captions, or to its end where it has few.
    """
    if not is_archive(file):
        return None
    found: Counter[str] = Counter()
    has_images = False
    with closing(members(file)) as entries:
        for member in entries:
            name = member.name.lower()
            if is_hidden(member.name) or member.size is None:
                continue
            if name.endswith((*_TABLES, *ARCHIVE_SUFFIXES)):
                return None
            has_images |= is_image(member.name)
            if _is_caption(member.name):
                if not has_images and is_table(member_content(member)[:_SAMPLE_BYTES]):
                    return None
                found[_caption_suffix(member.name)] += 1
                if found.total() >= _NUM_TOLD_BY:
                    break
    return min(found, key=_CAPTION_SUFFIXES.index) if found else None
