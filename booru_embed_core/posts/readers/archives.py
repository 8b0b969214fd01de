"""The members of an archive, one after the other: tar, compressed in any way or not, and zip.

Members are streams: nothing is written, and paths and links in an archive lead nowhere. Memory is bounded by 1 MiB and
the window of the compression, and about 1 KiB for each member of a zip, whose list of contents is read first. A tar
must be whole: Python's own ``tarfile`` takes a damaged header for the end of the archive, and with it loses what
follows.
"""

from __future__ import annotations

import shlex
import struct
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final, Self, cast

from booru_embed_core.errors import one_line
from booru_embed_core.posts.readers.compression import BROKEN_STREAM, checked, open_stream
from booru_embed_core.posts.validation import ExportError

if sys.version_info >= (3, 14):
    import tarfile
    import zipfile
else:
    from backports.zstd import tarfile, zipfile

ARCHIVE_SUFFIXES: Final = (
    ".zip",
    *(".tar" + packed for packed in ("", ".gz", ".zst", ".xz", ".bz2", ".lzma", ".lz4", ".br")),
    *(".tgz", ".tzst", ".txz", ".tbz", ".tbz2"),
)
"""The ends of the names of archives that are read."""

_MAX_READ_BYTES: Final = 1 << 20
_IS_ENCRYPTED: Final = 0x1
_MAX_MESSAGE: Final = 120
_BROKEN_ARCHIVE: Final = (
    *BROKEN_STREAM,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,
    ValueError,
    struct.error,
)
"""What ``tarfile`` and ``zipfile`` raise for a damaged archive."""


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: its path in the archive, as it stands there.
        size: its unpacked bytes, as its header says; None for a link, a device or the like, which has no content.
        is_encrypted: whether reading needs a password.
    """

    name: str
    size: int | None
    is_encrypted: bool
    _open: Callable[[], IO[bytes]]

    def open(self) -> IO[bytes]:
        """The content, unpacked, to read until the next member is asked for.

        Opening and reading raise `ExportError` where the archive is broken.
        """
        return self._open()


def is_archive(file: Path, name: str | None = None) -> bool:
    """Whether `file` is a tar, compressed or not, or a zip, by its first bytes; errors call it `name`, as `members` do.

    Raises:
        ExportError: its compressed stream is broken.
    """
    return _is_zip(file) or _is_tar(file, name)


def members(file: Path, name: str | None = None) -> Generator[Member]:
    """The files in the archive `file` in their order, without folders; errors call it `name`, by default its path.

    Raises:
        ExportError: the archive is broken.
    """
    shown = name or str(file)
    found = _zip_members(file, shown) if _is_zip(file) else _tar_members(file, shown)
    with closing(found):
        while True:
            try:
                member = next(found, None)
            except ExportError:
                raise
            except _BROKEN_ARCHIVE as error:
                raise _archive_error(shown, error) from None
            if member is None:
                return
            yield member


def unpack_command(file: str) -> str:
    """The command that unpacks the archive `file`, without its name."""
    return "unzip" if file.lower().endswith(".zip") else "tar -xf"


def _archive_error(shown: str, error: BaseException) -> ExportError:
    if isinstance(error, NotImplementedError):
        return ExportError(
            f"{shown}: a member of the archive cannot be read ({one_line(error, _MAX_MESSAGE)}); unpack it with "
            f"7z x {shlex.quote(shown)} and set [posts] export to the file in it"
        )
    return ExportError(f"{shown}: the archive is broken ({one_line(error, _MAX_MESSAGE)}); fetch the file again")


def _is_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00")


def _zip_members(file: Path, shown: str) -> Generator[Member]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if infos and all(info.header_offset for info in infos):
            raise ExportError(
                f"{shown}: bytes that the zip does not list stand before its members, such as another zip; unpack it "
                f"with 7z x {shlex.quote(shown)} and set [posts] export to the files in it"
            )
        for info in infos:
            if not info.is_dir():
                is_encrypted = bool(info.flag_bits & _IS_ENCRYPTED)
                yield Member(info.filename, info.file_size, is_encrypted, partial(_open_zipped, archive, info, shown))


def _open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, shown: str) -> IO[bytes]:
    name = f"{shown}/{info.filename}"
    if info.flag_bits & _IS_ENCRYPTED:
        raise ExportError(
            f"{name}: is encrypted; unpack it with 7z x {shlex.quote(shown)} and its password, and set [posts] export "
            "to the file in it"
        )
    try:
        stream = archive.open(info)
    except _BROKEN_ARCHIVE as error:
        raise _archive_error(shown, error) from None
    return checked(stream, partial(_archive_error, shown), _BROKEN_ARCHIVE)


class _Blocks:
    """A stream as ``tarfile`` reads it, but forward only, and never much of it at once.

    Unlike its mode ``r|`` this leaves a plain file the way to skip members.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._position = 0
        self.last = b""
        """What was read last."""

    def read(self, size: int) -> bytes:
        if size > _MAX_READ_BYTES:
            # The content of members is read in smaller blocks.
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._stream.read(size)
        self._position += len(self.last)
        return self.last

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("a header points backwards")
        if self._stream.seekable():
            self._position = self._stream.seek(position)
        while self._position < position and self.read(min(position - self._position, _MAX_READ_BYTES)):
            pass

    def write(self, data: bytes) -> int:
        raise NotImplementedError(data)

    def close(self) -> None:
        self._stream.close()


class _StrictTarInfo(tarfile.TarInfo):
    """A header that is an error where ``tarfile`` would take it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            info = super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            last = cast("_Blocks", archive.fileobj).last
            if len(last) == tarfile.BLOCKSIZE and not any(last):
                raise  # the end of the archive
            raise tarfile.ReadError(str(error) if last else "it ends without its end mark") from None
        if info.size < 0:
            raise tarfile.ReadError(f"a member of {info.size} bytes")
        return info


def _is_tar(file: Path, shown: str | None) -> bool:
    with open_stream(file, shown) as stream:
        start = stream.read(tarfile.BLOCKSIZE)
    if len(start) < tarfile.BLOCKSIZE:
        return False
    if not any(start):
        return file.name.lower().endswith(ARCHIVE_SUFFIXES)
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return start[257:262] == b"ustar"
    return True


def _tar_members(file: Path, shown: str) -> Generator[Member]:
    with open_stream(file, shown) as stream:
        blocks = _Blocks(stream)
        with tarfile.open(fileobj=blocks, mode="r:", tarinfo=_StrictTarInfo, errors="surrogateescape") as archive:
            archive.stream = True  # headers that were read do not stay in memory
            while (info := archive.next()) is not None:
                if not info.isdir():
                    size = info.size if info.isreg() else None
                    yield Member(info.name, size, False, partial(_open_in_tar, archive, info, shown))
        # The end mark is behind the members; a second archive behind it would be lost.
        while block := stream.read(_MAX_READ_BYTES):
            if block.strip(b"\0"):
                raise ExportError(
                    f"{shown}: another archive or other bytes follow the tar archive; unpack all of it with "
                    f"tar --ignore-zeros -xf {shlex.quote(shown)} and set [posts] export to the files in it"
                )


def _open_in_tar(archive: tarfile.TarFile, info: tarfile.TarInfo, shown: str) -> IO[bytes]:
    try:
        stream = archive.extractfile(info)
    except _BROKEN_ARCHIVE as error:
        raise _archive_error(shown, error) from None
    assert stream is not None, info.name
    return checked(stream, partial(_archive_error, shown), _BROKEN_ARCHIVE)
