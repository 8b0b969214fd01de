"""Bytes to lines: how files are packed, which lines are chosen, and their numbers."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.readers.compression import Compression, compression_of
from booru_embed_core.posts.readers.lines import (
    first_bytes,
    is_utf8,
    line_numbers,
    raw_lines,
    select_lines,
)


@pytest.mark.parametrize(
    ("content", "compression"),
    [
        (b"\xef\xbb\xbfa\nb", Compression.NONE),
        (gzip.compress(b"\xef\xbb\xbfa\nb", mtime=0), Compression.GZIP),
        (pa.Codec("zstd").compress(b"\xef\xbb\xbfa\nb", asbytes=True), Compression.ZSTD),
    ],
)
def test_packing_is_told_by_the_bytes(tmp_path: Path, content: bytes, compression: Compression) -> None:
    file = tmp_path / "export.csv.bz2"
    file.write_bytes(content)
    assert compression_of(file) is compression
    assert first_bytes(file) == b"a\nb"
    assert list(raw_lines(file)) == [b"a", b"b"]


def test_lines_are_chosen_by_number(tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    file.write_bytes(b"a\r\nb\n\nd")
    assert list(select_lines(file, [1, 3, 4])) == [(1, b"a"), (3, b""), (4, b"d")]
    assert list(select_lines(file, [])) == []


@given(data=st.binary(max_size=20) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_utf8_is_what_python_decodes(data: bytes) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        assert not is_utf8(data)
    else:
        assert is_utf8(data)


@given(skipped=st.sets(st.integers(3, 30)), first_line=st.integers(1, 3))
def test_line_numbers_leave_out_what_is_skipped(skipped: set[int], first_line: int) -> None:
    expected = [line for line in range(first_line, 60) if line not in skipped]
    record = np.arange(len(expected), dtype=np.int64)
    found = line_numbers(record, np.array(sorted(skipped), dtype=np.int64), first_line)
    assert found.tolist() == expected
