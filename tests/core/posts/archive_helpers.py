"""Compressed files and archives, as programs write them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable
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
