"""Files that are compressed as a whole, told by their first bytes: which compression it is, and the unpacked bytes.

Several streams in one file count as one, as the tools of each compression read them, and so does padding with zeros.
Any other bytes behind a stream are an error: Python's own ``lzma`` and ``bz2`` take them for the end of the file, and
with them a second stream that is padded or damaged (https://github.com/python/cpython/issues/88300). Memory is bounded
by the compression's window, 2 GiB at most for zstd, and a buffer of 1 MiB. Archives of several files belong to
``containers.py``.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shlex
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol, cast

import pyarrow as pa

from booru_embed_core.errors import one_line
from booru_embed_core.posts.validation import ExportError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PACKED_SUFFIXES: Final = ("", ".gz", ".zst", ".xz", ".bz2", ".lzma", ".lz4", ".br")
"""What a file's name may have behind the suffix of its format."""

_CHUNK_BYTES: Final = 1 << 20
_MAX_SKIPPABLE: Final = 1000
_USUAL_WINDOW: Final = 1 << 27
_NUM_TOLD_BY: Final = 8
_MAX_MESSAGE: Final = 120
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MAX_HEADER_BYTES: Final = 18
_RLE_BLOCK: Final = 1


class Compression(StrEnum):
    """How a file is compressed, in DuckDB's words where it has one."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"
    LZMA = "lzma"
    LZ4 = "lz4"
    BROTLI = "brotli"

    @property
    def command(self) -> str:
        """The command that unpacks a file of this compression, without the file's name."""
        return {"zstd": "zstd -d --long=31", "lzma": "xz -d"}.get(self.value, f"{self.value} -d")


_MAGIC: Final = {
    b"\x1f\x8b": Compression.GZIP,
    _ZSTD: Compression.ZSTD,
    b"\xfd7zXZ\x00": Compression.XZ,
    b"\x5d\x00\x00": Compression.LZMA,
    b"\x04\x22\x4d\x18": Compression.LZ4,
    **{b"BZh" + bytes([level]): Compression.BZIP2 for level in b"123456789"},
}

BROKEN_STREAM: Final = (EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError, pa.ArrowException, OSError, MemoryError)
"""What reading a broken stream raises."""


def compression_of(file: Path) -> Compression:
    """How `file` is compressed, by its first bytes; brotli has no sign of its own and is told by the suffix ``.br``."""
    with file.open("rb") as stream:
        start = stream.read(_NUM_TOLD_BY)
        # pzstd, seekable zstd and lz4 write frames of other data, which carry their length: RFC 8878, section 3.1.2.
        for _ in range(_MAX_SKIPPABLE):
            if not _is_skippable(start):
                break
            stream.seek(int.from_bytes(start[4:8], "little"), io.SEEK_CUR)
            start = stream.read(_NUM_TOLD_BY) or _ZSTD
    if _is_skippable(start):
        return Compression.ZSTD
    told = next((compression for magic, compression in _MAGIC.items() if start.startswith(magic)), Compression.NONE)
    return Compression.BROTLI if told is Compression.NONE and file.suffix.lower() == ".br" else told


def open_stream(file: Path, name: str | None = None) -> IO[bytes]:
    """The unpacked bytes of `file`, which may be compressed in any of the ways of `Compression`.

    Opening and reading raise `ExportError` where the stream is broken; it calls the file `name`, by default its path.
    """
    compression = compression_of(file)
    if compression is Compression.NONE:
        return file.open("rb")
    return checked(open_compressed(file, compression), partial(stream_error, name or str(file), compression))


def checked(
    stream: IO[bytes],
    error_of: Callable[[BaseException], ExportError],
    errors: tuple[type[BaseException], ...] = BROKEN_STREAM,
) -> IO[bytes]:
    """`stream` with `errors` of reading it replaced by ``error_of(error)``; closing it closes `stream`."""
    return io.BufferedReader(_Checked(stream, error_of, errors), _CHUNK_BYTES)


def stream_error(name: str, compression: Compression, error: BaseException) -> ExportError:
    """The error of the broken stream of the file called `name`, with a remedy."""
    text, file = one_line(error, _MAX_MESSAGE), shlex.quote(name)
    if isinstance(error, _TrailingBytesError) or "Not a gzipped file" in text:
        return ExportError(
            f"{name}: bytes that are no {compression} follow the {compression} stream; fetch the file again, or unpack "
            f"what stands before them with {compression.command} -c {file} > UNPACKED"
        )
    if "ictionary" in text:
        return ExportError(
            f"{name}: the zstd stream was compressed with a dictionary; unpack it with zstd -d -D DICTIONARY {file}"
        )
    if isinstance(error, MemoryError) or "emory" in text:
        return ExportError(
            f"{name}: the {compression} stream has too large a window for this machine ({text}); unpack it elsewhere "
            f"with {compression.command} {file}"
        )
    return ExportError(f"{name}: the {compression} stream is broken ({text}); fetch the file again")


def is_plain_stream(file: Path, compression: Compression) -> bool:
    """Whether DuckDB reads `file` as it is: it knows no padding, and of zstd no window above 128 MiB."""
    if compression is Compression.GZIP:
        return not _is_padded_gzip(file)
    if compression is Compression.ZSTD:
        return all(window <= _USUAL_WINDOW for window in _windows(file))
    return compression is Compression.NONE


def open_compressed(file: Path, compression: Compression) -> IO[bytes]:
    """The unpacked bytes of `file`; reading raises one of `BROKEN_STREAM` where the stream is broken."""
    if compression is Compression.GZIP:
        return cast("IO[bytes]", gzip.open(file, "rb"))
    if compression in (Compression.LZ4, Compression.BROTLI):
        return cast(
            "IO[bytes]",
            pa.CompressedInputStream(pa.OSFile(str(file), "rb"), "lz4" if compression is Compression.LZ4 else "brotli"),
        )
    new_decompressors: dict[Compression, Callable[[], _Decompressor]] = {
        Compression.ZSTD: partial(zstd.ZstdDecompressor, options={zstd.DecompressionParameter.window_log_max: 31}),
        Compression.BZIP2: bz2.BZ2Decompressor,
        Compression.XZ: lzma.LZMADecompressor,
        Compression.LZMA: lzma.LZMADecompressor,
    }
    signs = [magic for magic, kind in _MAGIC.items() if kind is compression]
    return cast("IO[bytes]", io.BufferedReader(_Streams(file, new_decompressors[compression], signs), _CHUNK_BYTES))


class _TrailingBytesError(OSError):
    """Bytes of another kind follow a stream."""


class _Decompressor(Protocol):
    """What the decompressors of ``bz2``, ``lzma`` and ``zstd`` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Streams(io.RawIOBase):
    """All streams of a file, one after the other, and zeros behind any of them."""

    def __init__(self, file: Path, new_decompressor: Callable[[], _Decompressor], signs: Sequence[bytes]) -> None:
        self._file = file.open("rb")
        self._signs = signs
        self._new_decompressor = new_decompressor
        self._decompressor = new_decompressor()
        self._pending = b""

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """See `io.RawIOBase`."""
        view = memoryview(buffer).cast("B")
        while True:
            if self._decompressor.eof and not self._start_next():
                return 0
            data = b""
            if self._decompressor.needs_input:
                data, self._pending = self._pending or self._file.read(_CHUNK_BYTES), b""
                if not data:
                    raise EOFError("it ends before its end mark")
            unpacked = self._decompressor.decompress(data, len(view))
            if unpacked:
                view[: len(unpacked)] = unpacked
                return len(unpacked)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _start_next(self) -> bool:
        """Whether another stream follows, which is begun."""
        rest = self._decompressor.unused_data.lstrip(b"\0")
        while not rest:
            block = self._file.read(_CHUNK_BYTES)
            if not block:
                return False
            rest = block.lstrip(b"\0")
        rest += self._file.read(_NUM_TOLD_BY) if len(rest) < _NUM_TOLD_BY else b""
        if not _is_skippable(rest) and not any(rest.startswith(sign) or sign.startswith(rest) for sign in self._signs):
            raise _TrailingBytesError(f"bytes behind the stream: {rest[:_NUM_TOLD_BY]!r}")
        self._decompressor, self._pending = self._new_decompressor(), rest
        return True


class _Checked(io.RawIOBase):
    """A stream whose errors are translated."""

    def __init__(
        self,
        stream: IO[bytes],
        error_of: Callable[[BaseException], ExportError],
        errors: tuple[type[BaseException], ...],
    ) -> None:
        self._stream = stream
        self._error_of = error_of
        self._errors = errors

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """See `io.RawIOBase`."""
        view = memoryview(buffer).cast("B")
        try:
            data = self._stream.read(len(view))
        except ExportError:
            raise
        except self._errors as error:
            raise self._error_of(error) from None
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _is_skippable(start: bytes) -> bool:
    return len(start) >= _NUM_TOLD_BY and start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5


def _is_padded_gzip(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, io.SEEK_END)
        if stream.read(1) != b"\0":
            return False
        # The length at the end may hold zeros too, that of each file below 16 MiB does: only unpacking tells.
        stream.seek(0)
        decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
        for block in iter(partial(stream.read, _CHUNK_BYTES), b""):
            rest = block
            while rest:
                if decompressor.eof:
                    if rest[0] == 0:
                        return True
                    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
                try:
                    decompressor.decompress(rest, _CHUNK_BYTES)
                except zlib.error:
                    return False
                rest = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
    return False


def _windows(file: Path) -> Iterator[int]:
    """The window of each zstd frame of `file` in bytes; one above any for what only unpacking tells.

    The frames are found from the lengths of their blocks (RFC 8878, section 3.1.1), without unpacking them.
    """
    with file.open("rb") as stream:
        while begin := stream.read(_MAX_HEADER_BYTES):
            start = stream.tell() - len(begin)
            header = begin.ljust(_MAX_HEADER_BYTES, b"\0")  # of a short frame at the end of the file
            if _is_skippable(header):
                stream.seek(start + 8 + int.from_bytes(header[4:8], "little"))
                continue
            if not header.startswith(_ZSTD):
                yield _USUAL_WINDOW + 1
                return
            window, num_bytes = _window(header)
            yield window
            stream.seek(start + num_bytes)
            is_last = False
            while not is_last:
                block = int.from_bytes(stream.read(3), "little")
                # A broken file ends here too, and the reader will say so.
                is_last, kind, size = bool(block & 1) or not block, block >> 1 & 3, block >> 3
                stream.seek(1 if kind == _RLE_BLOCK else size, io.SEEK_CUR)
            stream.seek(4 if header[4] & 4 else 0, io.SEEK_CUR)  # the checksum


def _window(header: bytes) -> tuple[int, int]:
    """The window in bytes that the zstd frame with this `header` asks for, and the length of the header."""
    descriptor = header[4]
    is_single = bool(descriptor & 0x20)
    start = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
    num_bytes = (int(is_single), 2, 4, 8)[descriptor >> 6]
    if is_single:  # the whole content is the window
        return int.from_bytes(header[start : start + num_bytes], "little") + (
            256 if num_bytes == 2 else 0
        ), start + num_bytes
    exponent, mantissa = divmod(header[5], 8)
    base = 1 << (10 + exponent)
    return base + base // 8 * mantissa, start + num_bytes
