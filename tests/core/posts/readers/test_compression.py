"""Compressed files: told by their bytes, read whole as their own tools read them, refused where they are broken."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.readers.compression import (
    Compression,
    compression_of,
    is_plain_stream,
    open_stream,
)
from booru_embed_core.posts.readers.lines import first_bytes, raw_lines
from booru_embed_core.posts.validation import ExportError
from tests.core.posts.archive_helpers import CONTENT, PACKERS, SKIPPABLE, zstd_with_window

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KINDS = sorted(PACKERS)
TOLERATED = ("gzip", "zstd", "xz", "bzip2", "lzma")
"""Kinds of which any padding is read."""


def file_of(folder: Path, kind: str, content: bytes) -> Path:
    file = folder / ("export.csv.br" if kind == "brotli" else "export.csv")
    file.write_bytes(content)
    return file


def read(file: Path) -> bytes:
    with open_stream(file) as stream:
        return stream.read()


@pytest.mark.parametrize("kind", KINDS)
def test_each_compression_is_told_and_read(tmp_path: Path, kind: str) -> None:
    file = file_of(tmp_path, kind, PACKERS[kind](CONTENT))
    assert compression_of(file) is Compression(kind)
    assert read(file) == CONTENT
    assert list(raw_lines(file)) == CONTENT.splitlines()
    assert first_bytes(file) == CONTENT[:4096]


def test_a_plain_file_is_told_and_read(tmp_path: Path) -> None:
    file = file_of(tmp_path, "none", CONTENT)
    assert compression_of(file) is Compression.NONE
    assert read(file) == CONTENT
    assert is_plain_stream(file, Compression.NONE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_streams", [2, 3])
def test_streams_one_after_the_other_are_one(tmp_path: Path, kind: str, num_streams: int) -> None:
    file = file_of(tmp_path, kind, PACKERS[kind](CONTENT) * num_streams)
    assert read(file) == CONTENT * num_streams


@pytest.mark.parametrize("kind", TOLERATED)
@pytest.mark.parametrize("padding", [1, 4, 512, 3 << 20])
def test_zeros_behind_a_stream_are_padding(tmp_path: Path, kind: str, padding: int) -> None:
    packed, zeros = PACKERS[kind](CONTENT), b"\0" * padding
    file = file_of(tmp_path, kind, packed + zeros)
    assert read(file) == CONTENT
    assert not is_plain_stream(file, Compression(kind))
    assert read(file_of(tmp_path, kind, packed + zeros + packed)) == 2 * CONTENT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [b"g", b"\n", b"garbage, and enough of it for a header", b"\0\0garbage"])
def test_other_bytes_behind_a_stream_are_refused(tmp_path: Path, kind: str, tail: bytes) -> None:
    file = file_of(tmp_path, kind, PACKERS[kind](CONTENT) + tail)
    with pytest.raises(ExportError, match=f"export.csv.*{kind}") as raised:
        read(file)
    if kind in TOLERATED:
        assert f"{Compression(kind).command} -c {file} > UNPACKED" in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_second_stream_is_no_end(tmp_path: Path, kind: str) -> None:
    packed = PACKERS[kind](CONTENT)
    second = bytes([packed[0] ^ 1]) + packed[1:]
    with pytest.raises(ExportError, match=r"export\.csv"):
        read(file_of(tmp_path, kind, packed + second))


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_refused(tmp_path: Path, kind: str) -> None:
    packed = PACKERS[kind](CONTENT)
    for length in {*range(8, len(packed), len(packed) // 30), len(packed) - 1}:
        for before in (b"", packed):
            file = file_of(tmp_path, kind, before + packed[:length])
            with pytest.raises(ExportError, match=f"export.csv.*the {kind} stream is broken.*fetch the file again"):
                read(file)
            with pytest.raises(ExportError, match=r"export\.csv"):
                list(raw_lines(file))


FRAMES = {
    "a skippable frame first": SKIPPABLE + zstd.compress(CONTENT),
    "a skippable frame last": zstd.compress(CONTENT) + SKIPPABLE,
    "an empty skippable frame, then a long one": SKIPPABLE[:4] + bytes(4) + SKIPPABLE + zstd.compress(CONTENT),
    "skippable frames among frames": b"".join(
        SKIPPABLE + zstd.compress(CONTENT[start : start + 999]) for start in range(0, len(CONTENT), 999)
    ),
    "an empty frame": zstd.compress(b"") + zstd.compress(CONTENT),
    "a checksum": zstd.compress(CONTENT, options={zstd.CompressionParameter.checksum_flag: 1}),
    "the largest usual window": zstd_with_window(CONTENT, 27),
}
LONG = {
    "a long window": zstd_with_window(CONTENT, 28),
    "the longest window": zstd_with_window(CONTENT, 31),
    "a long window behind a skippable frame": SKIPPABLE + zstd_with_window(CONTENT, 28),
    "a long window in the second frame": zstd.compress(CONTENT[:5000]) + zstd_with_window(CONTENT[5000:], 28),
}


@pytest.mark.parametrize("name", [*FRAMES, *LONG])
def test_frames_of_zstd(tmp_path: Path, name: str) -> None:
    file = file_of(tmp_path, "zstd", (FRAMES | LONG)[name])
    assert compression_of(file) is Compression.ZSTD
    assert read(file) == CONTENT
    assert b"\n".join(raw_lines(file)) + b"\n" == CONTENT
    assert is_plain_stream(file, Compression.ZSTD) is (name in FRAMES)


def test_a_frame_of_one_segment_has_its_content_for_a_window(tmp_path: Path) -> None:
    size = (1 << 27) + 1
    file = file_of(tmp_path, "zstd", zstd.compress(bytes(size), options={zstd.CompressionParameter.window_log: 31}))
    assert not is_plain_stream(file, Compression.ZSTD)
    file.write_bytes(zstd.compress(bytes(size - 1), options={zstd.CompressionParameter.window_log: 31}))
    assert is_plain_stream(file, Compression.ZSTD)


def test_a_window_that_zstd_itself_refuses(tmp_path: Path) -> None:
    packed = bytearray(zstd_with_window(CONTENT, 28))
    packed[5] = 22 << 3  # the exponent of 4 GiB
    with pytest.raises(ExportError, match="zstd stream has too large a window"):
        read(file_of(tmp_path, "zstd", bytes(packed)))


def test_a_dictionary_is_named(tmp_path: Path) -> None:
    samples = [b"%d,long hair,blue eyes" % number for number in range(3000)]
    dictionary = zstd.train_dict(samples, 1000)
    file = file_of(tmp_path, "zstd", zstd.compress(CONTENT, zstd_dict=dictionary))
    with pytest.raises(ExportError, match=r"with a dictionary; unpack it with zstd -d -D DICTIONARY .*export\.csv"):
        read(file)


def test_gzip_of_many_members_as_bgzip_writes_it(tmp_path: Path) -> None:
    members = [gzip.compress(CONTENT[start : start + 500]) for start in range(0, len(CONTENT), 500)]
    file = file_of(tmp_path, "gzip", b"".join(members) + gzip.compress(b""))
    assert read(file) == CONTENT


def test_a_gzip_without_zeros_at_its_end_is_plain(tmp_path: Path) -> None:
    packed = gzip.compress(bytes(1 << 24))  # the length at its end is the first one that ends with no zero
    assert packed[-1] == 1
    assert is_plain_stream(file_of(tmp_path, "gzip", packed), Compression.GZIP)


def test_a_skippable_frame_before_lz4(tmp_path: Path) -> None:
    file = file_of(tmp_path, "lz4", SKIPPABLE + PACKERS["lz4"](CONTENT))
    assert compression_of(file) is Compression.LZ4
    assert read(file) == CONTENT


def test_many_skippable_frames_and_nothing_else(tmp_path: Path) -> None:
    file = file_of(tmp_path, "zstd", SKIPPABLE * 1200)
    assert compression_of(file) is Compression.ZSTD
    assert read(file) == b""


def test_errors_call_the_file_by_the_name_that_is_given(tmp_path: Path) -> None:
    file = file_of(tmp_path, "xz", lzma.compress(CONTENT)[:-1])
    with open_stream(file, "dump.tar/posts of 2021.csv.xz") as stream, pytest.raises(ExportError, match=r"^dump\.tar"):
        stream.read()


@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6),
    paddings=st.lists(st.sampled_from([0, 4, 100]), min_size=6, max_size=6),
    reads=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    kind=st.sampled_from(TOLERATED),
)
def test_streams_and_paddings_at_any_border(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], paddings: list[int], reads: list[int], kind: str
) -> None:
    random = Random(sum(sizes))
    chunks = [random.randbytes(size) for size in sizes]
    packed = [PACKERS[kind](chunk) + b"\0" * padding for chunk, padding in zip(chunks, paddings, strict=False)]
    file = file_of(tmp_path_factory.mktemp("streams"), kind, b"".join(packed))
    found = b""
    with open_stream(file) as stream:
        for size in reads:
            found += stream.read(size)
        found += stream.read()
    assert found == b"".join(chunks)


@pytest.mark.parametrize("block", [1, 2, 7, 8, 9])
def test_streams_at_the_borders_of_what_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("booru_embed_core.posts.readers.compression._CHUNK_BYTES", block)
    for pack in (lzma.compress, bz2.compress, zstd.compress):
        packed = (pack(b"a" * 300) + b"\0\0\0\0" + pack(b"b" * 300) + b"\0" * 9 + pack(b"c")) * 2
        assert read(file_of(tmp_path, "", packed)) == (b"a" * 300 + b"b" * 300 + b"c") * 2


@given(data=st.data())
def test_every_window_of_any_frames_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    parameter = zstd.CompressionParameter
    frames = []
    for _ in range(data.draw(st.integers(1, 4))):
        size = data.draw(st.sampled_from([0, 1, 255, 256, 257, 65791, 65792, 300_000]))
        content = data.draw(st.sampled_from([bytes(size), Random(size).randbytes(size)]))
        options = {
            parameter.checksum_flag: data.draw(st.integers(0, 1)),
            parameter.content_size_flag: data.draw(st.integers(0, 1)),
            parameter.window_log: data.draw(st.integers(10, 27)),
        }
        frames.append(zstd.compress(content, options=options) + data.draw(st.sampled_from([b"", SKIPPABLE])))
    folder = tmp_path_factory.mktemp("frames")
    assert is_plain_stream(file_of(folder, "zstd", b"".join(frames)), Compression.ZSTD)
    at = data.draw(st.integers(0, len(frames)))
    for odd in (zstd_with_window(b"x", 28), bytes(3)):
        file = file_of(folder, "zstd", b"".join([*frames[:at], odd, *frames[at:]]))
        assert not is_plain_stream(file, Compression.ZSTD)
