"""The bytes of a file as lines, plain or compressed.

What a line means is up to the reader that asks: ``scan.py`` for CSV, ``json_lines.py`` for JSON.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.errors import first_line
from booru_embed_core.posts.readers.compression import (
    BROKEN_STREAM,
    Compression,
    compression_of,
    open_compressed,
    stream_error,
)
from booru_embed_core.posts.validation import MAX_LINE_BYTES, ExportError

BOM: Final = b"\xef\xbb\xbf"
_UTF16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_RECORD_SEPARATOR: Final = b"\x1e"
_BLOCK_BYTES: Final = 4 << 20
_FIRST_BYTES: Final = 4096


def first_bytes(file: Path) -> bytes:
    """The first bytes of `file`, unpacked, in UTF-8 without a byte order mark.

    Raises:
        ExportError: its compressed stream is broken.
    """
    start = next(unpacked_blocks(file), b"")
    if start.startswith(_UTF16_MARKS):
        # Other formats than text may begin with these bytes too.
        return codecs.getincrementaldecoder("utf-16")("replace").decode(start[:_FIRST_BYTES]).encode()
    return next(_in_utf8(iter((start,)), file), b"").removeprefix(BOM)[:_FIRST_BYTES]


def raw_lines(file: Path) -> Iterator[bytes]:
    """The lines of `file` without line ends and byte order mark; overlong ones are cut."""
    for number, block in enumerate(whole_lines(file)):
        lines = (block.removeprefix(BOM) if number == 0 else block).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in lines[:-1])


def select_lines(file: Path, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Number and text of the lines of `file` with these `numbers` (ascending, from 1), as `raw_lines` gives them."""
    upcoming = iter(numbers)
    wanted = next(upcoming, 0)
    for number, raw in enumerate(raw_lines(file) if wanted else (), start=1):
        if number == wanted:
            yield number, raw
            wanted = next(upcoming, 0)
            if not wanted:
                return


def whole_lines(file: Path, block_bytes: int | None = None) -> Iterator[bytes]:
    """Blocks of whole lines, each with its ``\\n``, the last one too; a line is cut above `MAX_LINE_BYTES`.

    UTF-16 is recognised by its byte order mark and becomes UTF-8. Blocks have about `block_bytes`.

    Raises:
        ExportError: the compressed stream is broken, or the text is no UTF-16 after all.
    """
    pending = b""
    for block in text_blocks(file, block_bytes):
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join((_cut(pending), memoryview(block)[:end]))
            pending = block[end:]
        else:
            pending = _cut(pending + block)
    if pending:
        yield pending + b"\n"


def _cut(line: bytes) -> bytes:
    # One byte above the limit shows that the line is too long, and a file without line ends stays out of memory.
    return line[: MAX_LINE_BYTES + 1]


def text_blocks(file: Path, block_bytes: int | None = None) -> Iterator[bytes]:
    """The bytes of `file` as `unpacked_blocks` gives them, in UTF-8.

    A JSON text sequence (RFC 7464) has a space for each of its separators, which no JSON value holds.

    Raises:
        ExportError: the compressed stream is broken, or the text is no UTF-16 after all.
    """
    return _in_utf8(unpacked_blocks(file, block_bytes), file)


def _in_utf8(blocks: Iterator[bytes], file: Path) -> Iterator[bytes]:
    first = next(blocks, b"")
    if first.removeprefix(BOM).startswith(_RECORD_SEPARATOR):
        for block in itertools.chain([first], blocks):
            yield block.replace(_RECORD_SEPARATOR, b" ")
        return
    if not first.startswith(_UTF16_MARKS):
        yield first
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder("utf-16")()
    try:
        for block in itertools.chain([first], blocks):
            yield decoder.decode(block).encode()
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise ExportError(
            f"{file}: begins as UTF-16, but is broken ({first_line(error)}); save it as UTF-8 and try again"
        ) from None


def is_transcoded(file: Path) -> bool:
    """Whether `whole_lines` changes the encoding of `file`, which is in UTF-16."""
    return next(unpacked_blocks(file), b"").startswith(_UTF16_MARKS)


def unpacked_blocks(file: Path, block_bytes: int | None = None) -> Iterator[bytes]:
    """The bytes of `file`, unpacked, in blocks of about `block_bytes`.

    Raises:
        ExportError: its compressed stream is broken.
    """
    compression = compression_of(file)
    num_bytes = min(block_bytes or _BLOCK_BYTES, _BLOCK_BYTES)
    if compression is Compression.NONE:
        with file.open("rb") as stream:
            yield from iter(partial(stream.read, num_bytes), b"")
        return
    try:
        with open_compressed(file, compression) as stream:
            yield from iter(partial(stream.read, num_bytes), b"")
    except BROKEN_STREAM as error:
        raise stream_error(str(file), compression, error) from None


def is_utf8(data: bytes) -> bool:
    """Whether `data` is UTF-8. Arrow checks the bytes in place; Python would build a string four times their size."""
    ends = pa.py_buffer(np.array([0, len(data)], dtype=np.int32).tobytes())
    try:
        pa.StringArray.from_buffers(1, ends, pa.py_buffer(data)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def line_numbers(record: NDArray[np.int64], skipped: NDArray[np.int64], first_line: int) -> NDArray[np.int64]:
    """Line numbers (int64 `[n]`) of `record`, which counts the lines from `first_line` on from 0, `skipped` left out.

    `skipped` are line numbers, int64, ascending.
    """
    # The k-th line that is not skipped follows every skipped line s with s - (skipped before s) <= k.
    free_before = skipped - np.arange(len(skipped))
    first = record + first_line
    return cast("NDArray[np.int64]", first + np.searchsorted(free_before, first, side="right"))


def concatenated(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """All of `parts` as one int64 array; an empty one where `parts` is empty."""
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
