"""The values that are cut out of a block are those that Python's csv module reads."""

from __future__ import annotations

import csv
import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.readers.dialect import RFC_4180, Dialect
from booru_embed_core.posts.readers.fields import values_of
from booru_embed_core.posts.readers.records import Layout, find_marks

VALUE = st.text(st.sampled_from('ab ,"\n\té長'), max_size=5)


def values(text: bytes, *is_read: bool, dialect: Dialect = RFC_4180) -> list[list[str]]:
    marks = find_marks(np.frombuffer(text, dtype=np.uint8), dialect)
    layout = Layout(len(is_read), None, is_read, dialect)
    return [pa.concat_arrays(pieces).to_pylist() for pieces in values_of(text, marks, layout)]


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(VALUE, VALUE, VALUE), max_size=30), quoting=st.sampled_from([0, 1]))
def test_what_the_csv_module_writes_comes_back(rows: list[tuple[str, ...]], quoting: int) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL if quoting else csv.QUOTE_MINIMAL).writerows(rows)
    found = values(stream.getvalue().encode(), True, False, True)
    assert found == [[row[0] for row in rows], [row[2] for row in rows]]


@pytest.mark.parametrize("num_quoted", [0, 1, 3, 50])
def test_doubled_quotes_become_one_however_many_values_have_them(num_quoted: int) -> None:
    text = b'"a ""b""",""\n' * num_quoted + b'"c",d\n' * (50 - num_quoted)
    assert values(text, True, False) == [['a "b"'] * num_quoted + ["c"] * (50 - num_quoted)]


def test_quotes_are_characters_where_the_dialect_has_none() -> None:
    assert values(b'"a"\t""\n"\tb\n', True, True, dialect=Dialect("\t", "", "")) == [['"a"', '"'], ['""', "b"]]


def test_a_value_may_have_more_quotes_than_a_byte_counts() -> None:
    text = b'"%s",x\n' % (b'""' * 300)
    assert values(text, True, True) == [['"' * 300], ["x"]]
