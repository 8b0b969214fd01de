"""Compressed files and archives, as programs write them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial

import pyarrow as pa

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = b"id,tags\n" + b"".join(b"%d,tag_%d tag_%d\n" % (n, n * n % 97, n * n % 89) for n in range(2000))
SKIPPABLE = b"\x53\x2a\x4d\x18" + (11).to_bytes(4, "little") + b"index of it"


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, mtime=0),
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "lzma": partial(lzma.compress, format=lzma.FORMAT_ALONE),
    "lz4": lambda content: bytes(pa.Codec("lz4").compress(content, asbytes=True)),
    "brotli": lambda content: bytes(pa.Codec("brotli").compress(content, asbytes=True)),
}
"""A function that packs, by `Compression`."""


def zstd_with_window(content: bytes, window_log: int) -> bytes:
    """`content` in a frame that asks for a window of ``2 ** window_log`` bytes, as ``zstd --long`` of a pipe does."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    return compressor.compress(content) + compressor.flush()


def tar_of(members: Mapping[str, bytes] | list[tuple[str, bytes]], **options: int) -> bytes:
    """A tar with these files; `options` are those of ``tarfile.open``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as archive:  # type: ignore[call-overload]
        for name, content in members.items() if isinstance(members, Mapping) else members:
            archive.addfile(tar_info(name, len(content)), io.BytesIO(content))
    return out.getvalue()


def tar_info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """The header of a member."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def zip_of(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip with these files; a name that ends with a slash is a folder."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def encrypted(content: bytes) -> bytes:
    """The zip `content` with the mark of a password in the headers of all members."""
    marked = bytearray(content)
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = marked.find(sign)
        while start >= 0:
            marked[start + offset] |= 1
            start = marked.find(sign, start + 4)
    return bytes(marked)
