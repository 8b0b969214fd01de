"""Fields, escapes and delimiters of each dialect."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.readers.dialect import RFC_4180, Dialect, delimiter_of

SPARK = Dialect(",", '"', "\\")
POSTGRES = Dialect("\t", "", "\\")
LITERAL = Dialect("\t", "", "")


@pytest.mark.parametrize(
    ("dialect", "record", "fields"),
    [
        (RFC_4180, '1,"a ""b"", c",\\m/', ["1", 'a "b", c', "\\m/"]),
        (RFC_4180, '1,"a\nb\r\nc"', ["1", "a\nb\r\nc"]),
        (Dialect(";"), '1;"a;b";c,d', ["1", "a;b", "c,d"]),
        (LITERAL, '1\t"a\t\\m/ \\N', ["1", '"a', "\\m/ \\N"]),
        (LITERAL, "1\t\\N", ["1", "\\N"]),
        (SPARK, '1,"a \\"b\\", c",\\"d\\",\\\\m/,\\m/,\\N', ["1", 'a "b", c', '"d"', "\\m/", "\\m/", ""]),
        (SPARK, '\\N,"x\\\ny",\\\\N,"\\N"', ["", "x\ny", "\\N", "\\N"]),
        (POSTGRES, '\\N\t"a"\t\\\\m/ \\\\N\tb\\tc\\nd\\re\t\\\\\t\\N', ["", '"a"', "\\m/ \\N", "b\tc\nd\re", "\\", ""]),
        (POSTGRES, "1\ta\\\nb\tc\\\td", ["1", "a\nb", "c\td"]),
        (Dialect(",", "", "\\"), '1,a\\,b,\\"c\\"', ["1", "a,b", '"c"']),
    ],
)
def test_a_record_has_these_fields(dialect: Dialect, record: str, fields: list[str]) -> None:
    assert dialect.fields(record) == fields
    assert dialect.quote_problem(record) is None


@pytest.mark.parametrize("record", ['1,"a', '1,"a"b', "1,a\nb", "1,a\rb", '1,"a"\r', "1,a\n"])
def test_broken_quotes_and_free_line_breaks_are_errors(record: str) -> None:
    with pytest.raises(csv.Error):
        RFC_4180.fields(record)


def test_without_quotes_only_an_escaped_line_break_is_a_part_of_a_field() -> None:
    for dialect in (LITERAL, POSTGRES):
        with pytest.raises(csv.Error, match="not escaped"):
            dialect.fields("1\ta\nb")


VALUES = st.text(st.sampled_from('ab\\",\t \nN'), max_size=6).filter(lambda value: value != "")


@given(values=st.lists(VALUES, min_size=1, max_size=4), prefix=st.sampled_from(["", "\\N,"]))
def test_what_a_database_escapes_comes_back(values: list[str], prefix: str) -> None:
    escaped = ['"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values]
    assert SPARK.fields(prefix + ",".join(escaped)) == ([""] if prefix else []) + values
    letters = {"\\": "\\\\", "\t": "\\t", "\n": "\\n"}
    bare = ["".join(letters.get(character, character) for character in value) for value in values]
    assert POSTGRES.fields("\t".join(bare)) == values
    ahead = ["".join("\\" + c if c in letters else c for c in value) for value in values]
    assert POSTGRES.fields("\t".join(ahead)) == values


def test_escapes_leave_the_lines_as_they_are() -> None:
    for dialect in (SPARK, POSTGRES):
        text = b'\\N\ta\\\nb\\n\t"\\"c\\\\"\n\\N\n'
        assert dialect.without_escapes(text).count(b"\n") == text.count(b"\n")


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [(b"id,rating", ","), (b"id;rating;a,b", ";"), (b"id|rating", "|"), (b"id\trating,score;x;y", "\t"), (b"id", ",")],
)
def test_the_delimiter_is_the_most_frequent_one_of_the_header(header: bytes, delimiter: str) -> None:
    assert delimiter_of(header) == delimiter


@pytest.mark.parametrize(
    ("dialect", "shown"),
    [
        (RFC_4180, "comma, quotes, doubled"),
        (SPARK, "comma, quotes, escaped by backslashes"),
        (POSTGRES, "tab, no quotes, backslash escapes"),
        (LITERAL, "tab, no quotes"),
    ],
)
def test_a_dialect_is_shown_in_words(dialect: Dialect, shown: str) -> None:
    assert str(dialect) == shown
