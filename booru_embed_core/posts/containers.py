"""Archives and other packed files, file by file, as the readers open them.

A plain file is read where it lies, and so are gzip and zstd as DuckDB knows them. Everything else is unpacked into
scratch, one file at a time: the disk holds the largest member, and for a packed file in an archive its packed bytes
too. Members are written under names of our own, whatever the archive calls them.
"""

from __future__ import annotations

import codecs
import errno
import io
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.export_files import DESCRIPTIONS
from booru_embed_core.posts.readers.archives import ARCHIVE_SUFFIXES, Member, is_archive, members, unpack_command
from booru_embed_core.posts.readers.base import ExportPath
from booru_embed_core.posts.readers.compression import (
    PACKED_SUFFIXES,
    Compression,
    compression_of,
    is_plain_stream,
    open_stream,
)
from booru_embed_core.posts.readers.lines import BOM
from booru_embed_core.posts.readers.registry import READERS, export_suffixes
from booru_embed_core.posts.validation import ExportError

FREE_BYTES: Final = 256 << 20
"""Disk space that unpacking leaves free."""

_BLOCK_BYTES: Final = 1 << 20
_CHECKED_BYTES: Final = 64 << 20
_FIRST_BYTES: Final = 4096
_MAX_DEPTH: Final = 4
_NUM_NAMED: Final = 20
_ZIP_END_BYTES: Final = 22
_BINARY: Final = (b"PAR1", b"SQLite format 3\0", b"PK\x03\x04", b"ARROW1")
_UNREAD: Final = {
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x"),
    b"Rar!\x1a\x07": ("a RAR archive", "unrar x"),
    b"MSCF\0\0\0\0": ("a CAB archive", "cabextract"),
    b"LZIP\x01": ("compressed by lzip", "lzip -d"),
    b"\x89LZO\0\r\n\x1a\n": ("compressed by lzop", "lzop -d"),
    b"\x1f\x9d": ("compressed by compress", "uncompress"),
    b"\x02\x21\x4c\x18": ("compressed by lz4 in its old format", "lz4 -d"),
    b"\xff\x06\0\0sNaPpY": ("compressed by snappy", "snzip -d"),
}
"""First bytes of what is refused: what it is, and the command that unpacks it."""
_OTHER_FORMATS: Final = {
    b"ORC": ("an ORC file", "write its rows as Parquet"),
    b"Obj\x01": ("an Avro file", "write its rows as Parquet"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", "write its rows as Parquet"),
    b"\x93NUMPY": ("a NumPy array", "write its rows as Parquet"),
    **{
        b"\x80" + version + end: ("a pickle of Python", "load it with pandas.read_pickle and write it by to_parquet")
        for version, end in ((b"\2", b""), (b"\3", b""), (b"\4", b"\x95"), (b"\5", b"\x95"))
    },
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save its sheet as CSV UTF-8"),
    b"PGDMP": ("a dump of pg_dump", "restore it, and export the table of posts by \\copy (select ...) to csv header"),
    b"<?xml": ("XML", "fetch the posts as JSON, such as by json=1 of Gelbooru's API"),
}
"""First bytes of formats that are not read: what each is, and what to do."""
_SQL: Final = re.compile(
    rb"(?:--[^\n]*\n|/\*[^\n]*\n|\s)*"
    rb"(?:PRAGMA foreign_keys|BEGIN TRANSACTION|SET [a-z_@. ]+=|(?:DROP|CREATE|LOCK) TABLES? |INSERT INTO )",
    re.IGNORECASE,
)
_DUCKDB: Final = (8, b"DUCK")
"""Where a database of DuckDB has its first fixed bytes."""
_WORKBOOK: Final = "xl/workbook.xml"


def unpacked(file: Path, label: str, scratch: Path, left_out: list[str]) -> Generator[tuple[Path, str]]:
    """The files in `file` that hold posts, each with its label in reports: `file` itself if it is no archive.

    The label of a member is ``label/member``. A file below `scratch` is removed when the next one is asked for. What is
    left out of an archive is added to `left_out`.

    Raises:
        ExportError: `file` is broken, needs a password, holds no export, does not fit on the disk, or is packed in a
            way that is not read; names the command that unpacks it.
    """
    if file.is_dir():
        yield file, label
        return
    num_before = len(left_out)
    with scratch_folder(scratch) as folder:
        unpacking = _Unpacking(file, folder, left_out)
        with closing(unpacking.files(file, label, str(file))) as files:
            num_files = 0
            for num_files, found in enumerate(files, start=1):  # noqa: B007
                yield found
        if not num_files:
            others = [name.removeprefix(f"{label}/") for name in left_out[num_before:]]
            if _WORKBOOK in others:
                raise _other_format(str(file), "an Excel workbook", "save its sheet as CSV UTF-8")
            raise ExportError(
                f"{file}: the archive holds no file of posts, found {', '.join(others[:5]) or 'nothing'}"
                f"{', …' if len(others) > 5 else ''}; {unpacking.remedy(str(file), unpack_command(str(file)))}"
            )


def _other_format(shown: str, kind: str, remedy: str) -> ExportError:
    return ExportError(f"{shown}: is {kind}, which is not read; {remedy}, and set [posts] export to that file")


@contextmanager
def called(label: str, path: Path, file: Path) -> Iterator[None]:
    """Lets errors of reading `path`, which was unpacked from `file`, call it `label`."""
    try:
        yield
    except ExportError as error:
        if path != file:
            error.args = (str(error).replace(str(path), label), *error.args[1:])
        raise


@dataclass
class _Unpacking:
    """One file that is unpacked, with what is in it.

    Attributes:
        source: the file.
        folder: where unpacked files are written.
        left_out: labels of what is left out.
    """

    source: Path
    folder: Path
    left_out: list[str]
    num_written: int = 0

    def files(self, file: Path, label: str, shown: str, depth: int = 0) -> Generator[tuple[Path, str]]:
        """The files in `file`, which errors call `shown`, each with its label."""
        self._refuse_unread(file, shown)
        compression = compression_of(file)
        if is_archive(file, shown):
            if any(reader.opens(ExportPath(file)) for reader in READERS if getattr(reader, "reads_archives", False)):
                yield file, label
            else:
                yield from self._members(file, label, shown, depth)
        elif compression is Compression.NONE:
            _refuse_misnamed(file, shown, (*_PACKED_ALONE, *ARCHIVE_SUFFIXES), file.name)
            yield file, label
        elif is_plain_stream(file, compression) and _is_text(file, shown):
            yield file, label
        else:
            _refuse_misnamed(file, shown, ARCHIVE_SUFFIXES, shown)
            with open_stream(file, shown) as stream:
                target = self._written(stream, b"", None, file.with_suffix("").name, shown, depth)
            yield from self._then_removed(target, label, shown, depth)

    def _members(self, file: Path, label: str, shown: str, depth: int) -> Generator[tuple[Path, str]]:
        found = _Found(label)
        with closing(members(file, shown)) as found_members:
            for member in found_members:
                name = _printable(member.name)
                with closing(_exports(member, found)) as streams:
                    for stream, start in streams:
                        inner, inner_label = f"{shown}/{name}", found.label_of(name)
                        target = self._written(stream, start, member.size, name, inner, depth)
                        yield from self._then_removed(target, inner_label, inner, depth)
        self.left_out.extend(found.left_out())

    def _then_removed(self, file: Path, label: str, shown: str, depth: int) -> Generator[tuple[Path, str]]:
        try:
            yield from self.files(file, label, shown, depth + 1)
        finally:
            file.unlink()

    def _written(self, stream: IO[bytes], start: bytes, size: int | None, name: str, shown: str, depth: int) -> Path:
        """A file with `start` and the rest of `stream`, about `size` bytes."""
        if depth == _MAX_DEPTH:
            raise ExportError(f"{shown}: is packed more than {_MAX_DEPTH} times; unpack it and set [posts] export")
        self._check_space(size or 0, shown)
        self.num_written += 1
        target = self.folder / f"{self.num_written}{_suffix(name)}"
        num_unchecked = 0
        try:
            with target.open("wb") as out:
                block = start or stream.read(_BLOCK_BYTES)
                while block:
                    num_unchecked += out.write(block)
                    if num_unchecked >= _CHECKED_BYTES:
                        self._check_space(0, shown)
                        num_unchecked = 0
                    block = stream.read(_BLOCK_BYTES)
            return target
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._no_space(shown) from None
            raise

    def _refuse_unread(self, file: Path, shown: str) -> None:
        with file.open("rb") as stream:
            start = stream.read(_FIRST_BYTES)
            stream.seek(-min(_ZIP_END_BYTES, file.stat().st_size), io.SEEK_END)
            end = stream.read()
        if start.startswith(b"version https://git-lfs"):
            raise ExportError(f"{shown}: is a pointer of Git LFS and not the file itself; fetch that with git lfs pull")
        if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise ExportError(f"{shown}: is a web page, such as one that answers a download; fetch the file again")
        if start.startswith(b"PK\x07\x08") or (end.startswith(b"PK\x05\x06") and any(end[4:6])):
            whole = shlex.quote(str(Path(shown).with_suffix(".zip")))
            raise ExportError(
                f"{shown}: is one part of a split zip; unpack all parts with 7z x {whole} and set [posts] export to "
                "the files in them"
            )
        text = start.removeprefix(BOM)
        for magic, (kind, remedy) in _OTHER_FORMATS.items():
            if text.startswith(magic) and not (magic == b"ORC" and _is_utf8(start)):
                raise _other_format(shown, kind, remedy)
        if start.startswith(_DUCKDB[1], _DUCKDB[0]):
            query = "select ... from a table of posts"
            raise _other_format(shown, "a database of DuckDB", f"run there: copy ({query}) to 'posts.parquet'")
        if _SQL.match(text):
            raise _other_format(
                shown, "a script of SQL", "run it in its database, and export the table of posts as CSV"
            )
        for magic, (kind, command) in _UNREAD.items():
            if start.startswith(magic):
                raise ExportError(f"{shown}: is {kind}, which is not read; {self.remedy(shown, command)}")

    def remedy(self, shown: str, command: str) -> str:
        """What a person can do about the file called `shown`, which `command` unpacks."""
        outer = str(self.source)
        inner = shown.removeprefix(f"{outer}/")
        first = "" if shown == outer else f"{unpack_command(outer)} {shlex.quote(outer)} and then "
        return f"unpack it with {first}{command} {shlex.quote(inner)} and set [posts] export to the files in it"

    def _check_space(self, num_bytes: int, shown: str) -> None:
        if shutil.disk_usage(self.folder).free < num_bytes + FREE_BYTES:
            raise self._no_space(shown)

    def _no_space(self, shown: str) -> ExportError:
        return ExportError(
            f"{shown}: the disk of {self.folder.parent} has no room to unpack it; free some, or unpack it on another "
            "disk and set [posts] export to the file in it"
        )


@dataclass
class _Found:
    """What an archive holds."""

    label: str
    labels: Counter[str] = field(default_factory=Counter)
    others: list[str] = field(default_factory=list)
    num_others: Counter[str] = field(default_factory=Counter)
    """How many files are left out, by suffix or kind."""

    def label_of(self, name: str) -> str:
        """The label of the export `name`; a second one of that name has a number, since tar allows it."""
        self.labels[name] += 1
        count = self.labels[name]
        return f"{self.label}/{name}" + (f" ({count})" if count > 1 else "")

    def leave_out(self, member: Member, kind: str | None = None) -> None:
        """Counts `member` among those that are left out, by `kind` or its suffix."""
        name = _printable(member.name)
        self.num_others[kind or Path(name).suffix.lower() or "no suffix"] += 1
        if len(self.others) < _NUM_NAMED:
            self.others.append(name)

    def left_out(self) -> list[str]:
        """Labels of what is left out; of many, the first ones and how many more there are."""
        more = self.num_others.total() - len(self.others)
        named = [f"{self.label}/{name}" for name in self.others]
        return [*named, f"{self.label}: {more} more files ({self._kinds()} in all)"] if more else named

    def _kinds(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.num_others.most_common(5))


def _exports(member: Member, found: _Found) -> Generator[tuple[IO[bytes], bytes]]:
    """The stream of `member` and its first bytes, where it holds an export; nothing where it is left out."""
    path = Path(member.name)
    if "__MACOSX" in path.parts or path.name.startswith("._"):
        found.leave_out(member, "of macOS")
    elif member.size is None:
        found.leave_out(member, "links or devices")
    elif member.size == 0:
        found.leave_out(member, "empty")
    elif path.name in (*DESCRIPTIONS, "Thumbs.db") or not _may_hold_posts(path.name):
        found.leave_out(member)
    else:
        with member.open() as stream:
            start = stream.read(_FIRST_BYTES)
            if _has_export_suffix(path.name) or _is_export(start):
                yield stream, start
            else:
                found.leave_out(member)


def _has_export_suffix(name: str) -> bool:
    return name.lower().endswith((*export_suffixes(), *ARCHIVE_SUFFIXES, *_PACKED_ALONE))


_PACKED_ALONE: Final = tuple(filter(None, PACKED_SUFFIXES))
_OTHER_NAMES: Final = ("", ".txt", ".dat", ".data", ".dump")
"""Suffixes of files that are told by their first bytes."""


def _may_hold_posts(name: str) -> bool:
    return _has_export_suffix(name) or Path(name).suffix.lower() in _OTHER_NAMES or Path(name).suffix[1:].isdigit()


def _is_export(start: bytes) -> bool:
    """Whether a file of no telling name that begins with `start` holds posts: JSON, Parquet, or a header with an id."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    header = text.partition(b"\n")[0].strip().replace(b'"', b"").lower()
    columns = header.replace(b"\t", b",").split(b",")
    is_table = len(columns) > 1 and b"id" in columns
    return text[:1] in (b"{", b"[") or start.startswith(_BINARY) or is_table


def _is_text(file: Path, shown: str) -> bool:
    """Whether `file` is text once it is unpacked, which readers unpack as they read, and no other format."""
    start = _start(file, shown)
    return b"\0" not in start and not start.startswith(_BINARY)


def _refuse_misnamed(file: Path, shown: str, suffixes: tuple[str, ...], name: str) -> None:
    """Raises where `name` has one of `suffixes` and `file` is neither so nor text, as a damaged one is."""
    suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), None)
    if suffix and not (start := _start(file, shown)).startswith(_BINARY) and not _is_utf8(start):
        raise ExportError(
            f"{shown}: is no {suffix} file, although its name says so; fetch the file again or correct its name"
        )


def _is_utf8(start: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def _start(file: Path, shown: str) -> bytes:
    with open_stream(file, shown) as stream:
        return stream.read(_FIRST_BYTES)


def _suffix(name: str) -> str:
    """The suffix by which a reader or `compression_of` tells the file `name`, if it is one of theirs."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix in (*export_suffixes(), *_PACKED_ALONE) else ""


def _printable(name: str) -> str:
    """`name` as it can stand in a message and in a table: one line of characters that UTF-8 has."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
