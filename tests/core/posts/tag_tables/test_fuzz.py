"""Damaged tables: each is read, or refused in one line that names the file."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.tag_categories import TagCategories
from booru_embed_core.posts.validation import ExportError
from tests.core.posts.test_tag_table import SHAPES

PAIRS: Final = "antecedent_name,consequent_name,status\n" + "".join(f"old_{n},tag_{n},active\n" for n in range(9))
WITH_ALIASES: Final = 'tag,category,count,aliases\na,0,5,"b,c"\nd,4,5,e\n'
TEXTS: Final = [text.encode() for text in (*SHAPES.values(), PAIRS, WITH_ALIASES, 'a\t0\t5\tx y\n"b"\t1\t5\t"c"\n')]
PIECES: Final = [
    *b'",\n\r\t\0[]{}; ',
    *(b"null", b"\xff", b"\xef\xbb\xbf", b"&#039;", b"1e400", b"\\ud800", b"-1", b"PAR1"),
]


def parquet_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"name": ["a", "b"], "category": [0, 4], "aliases": [["x"], []]}), sink)
    return sink.getvalue().to_pybytes()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from([*TEXTS, parquet_bytes(), gzip.compress(TEXTS[0])])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        piece = draw(st.sampled_from(PIECES))
        data[start : start + draw(st.integers(0, 20))] = bytes([piece]) if isinstance(piece, int) else piece
    return bytes(data)


@pytest.mark.parametrize("load", [Aliases.load, TagCategories.load])
@settings(max_examples=300)
@given(data=damaged())
def test_a_damaged_table_is_read_or_refused(
    load: Callable[[Path], Any], data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "table"
    file.write_bytes(data)
    message = str(file)
    try:
        load(file)
    except ExportError as error:
        message = str(error)
    assert message.startswith(str(file))
    assert "\n" not in message
