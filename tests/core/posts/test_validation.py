"""Reasons, headers and the table of rejects."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.validation import MAX_LINE_BYTES, ExportError, columns_of, line_problem, values_problem
from booru_embed_core.schema import POST_COLUMNS
from tests.core.export_helpers import LITERAL


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,s,0,a,b,c,d", "7 fields instead of 8"),
        (b"1,s,0,a,b,c,d,e,f", "9 fields instead of 8"),
        (b"1,s,0,a,b,c,d,e,", "9 fields instead of 8"),
        (b"x,s,0,a,b,c,d,e", "id 'x' is not a whole number from -9223372036854775808 to 9223372036854775807"),
        (b"9223372036854775808,s,0,a,b,c,d,e", "id '9223372036854775808' is not"),
        (b"1.5,s,0,a,b,c,d,e", "id '1.5' is not"),
        (b",s,0,a,b,c,d,e", "id is missing"),
        (b"1,s,,a,b,c,d,e", "score is missing; set [posts] missing_score"),
        (b"1,s,NaN,a,b,c,d,e", "score is missing"),
        ("\u0661,s,0,a,b,c,d,e".encode(), "id '\u0661' is not"),
        (b"1,z,0,a,b,c,d,e", "rating 'z' is not one of g, s, q, e; say which one it is in [posts.rating_names]"),
        (b"1,,0,a,b,c,d,e", "rating is missing; set [posts] missing_rating"),
        (b"1,s,1e3,a,b,c,d,e", "score '1e3' is not a whole number from -2147483648 to 2147483647"),
        (b"1,s,2147483648,a,b,c,d,e", "score '2147483648' is not"),
        (b"1,s, 5,a,b,c,d,e", "score ' 5' is not"),
        (b'1,s,0,"a,b,c,d,e', "broken quotes"),
        (b'1,s,0,"a"x,b,c,d,e', "broken quotes"),
        (b'1,s,0,a"x"y,b,c,d,e', "a quote inside a field that is not quoted"),
        (b"1,s,0,\xff,b,c,d,e", "not UTF-8: byte 0xff at position 6"),
        (b"1,s,0,a\rb,b,c,d,e", "a carriage return inside the line"),
        (b"1,z,0," + b"a" * 500_000 + b",b,c,d,e", "rating 'z'"),
        (b"1,s,0," + b"a" * MAX_LINE_BYTES + b",b,c,d,e", f"the line is longer than {MAX_LINE_BYTES} bytes"),
    ],
)
def test_a_problem_is_told_with_its_field_and_value(line: bytes, reason: str) -> None:
    problem = line_problem(line, POST_COLUMNS)
    assert problem is not None
    assert problem.startswith(reason)


@given(
    fields=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")), min_size=5, max_size=5
    )
)
def test_what_the_csv_module_writes_has_no_problem(fields: list[str]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([-5, "e", 2**31 - 1, *fields])
    assert line_problem(text.getvalue().encode(), POST_COLUMNS, conventions=LITERAL) is None


def test_columns_may_stand_in_any_order_and_behind_a_byte_order_mark() -> None:
    columns = POST_COLUMNS[::-1]
    assert columns_of(b"\xef\xbb\xbf" + ",".join(columns).encode() + b"\r", Path("x.csv")) == columns


def test_a_post_in_place_of_the_header_is_told() -> None:
    with pytest.raises(ExportError, match="the first line looks like a post and no header: write the names"):
        columns_of(b"1,s,0,a,b,c,d,e", Path("x.csv"))
    with pytest.raises(ExportError) as caught:
        columns_of(b"md5,source", Path("x.csv"))
    assert "looks like a post" not in str(caught.value)


def test_further_columns_are_allowed_and_tabs_may_separate() -> None:
    columns = ("md5", *POST_COLUMNS, "is_deleted")
    assert columns_of("\t".join(columns).encode(), Path("x.tsv")) == columns


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"score": None}, "score is missing; set [posts] missing_score"),
        ({"tag_string_meta": "a,b c"}, "a comma inside tag_string_meta: 'a,b'; set [posts] tag_separator to ',' if"),
        ({"is_banned": "nay"}, "is_banned 'nay' is neither true nor false; set [posts.true_values] is_banned"),
        ({"tag_string_meta": "a\nb"}, "a line break inside tag_string_meta"),
    ],
)
def test_values_that_no_csv_line_can_have_are_told_too(change: dict[str, str | None], reason: str) -> None:
    good = dict.fromkeys(POST_COLUMNS, "0") | {"rating": "g", "is_banned": "f", "md5": None}
    for value in ("f", "", None):
        assert values_problem(good | {"is_banned": value}) is None
    assert str(values_problem(good | change)).startswith(reason)


@pytest.mark.parametrize(
    "header",
    [
        b"1,s,0,a,b,c,d,e",
        ",".join(POST_COLUMNS[1:]).encode(),
        ",".join((*POST_COLUMNS, "extra", "extra")).encode(),
        ",".join((*POST_COLUMNS[1:], "score")).encode(),
        b"PAR1\x15\x04\x15\x00",
        b"\xff\xfei\x00d\x00",
        b'"id',
    ],
)
def test_a_wrong_header_is_told_in_one_line_with_what_was_wanted(header: bytes) -> None:
    with pytest.raises(ExportError, match=r"^folder/x\.csv: .*wanted .*id,rating,score,tag_string_general") as caught:
        columns_of(header, Path("folder/x.csv"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("header", [b"id,name,category,post_count", b"antecedent_name,consequent_name,status"])
def test_a_table_of_tags_is_called_one(header: bytes) -> None:
    with pytest.raises(
        ExportError, match=r"this is a table of tags: name it under \[posts\] tag_categories or \[posts\] aliases"
    ):
        columns_of(header, Path("tags.csv"))


@pytest.mark.parametrize(
    ("header", "remedy"),
    [
        ("id,rating".encode("utf-16-le"), "looks like UTF-16 .*iconv -f UTF-16LE -t UTF-8 x.csv"),
        (b"id,rating\r1,g\r2,s", r"its lines end with a carriage return alone; convert it: tr '\\r' '\\n' < x.csv"),
        (b"sep=;", "begins with Excel's line 'sep=;'; remove that line"),
    ],
)
def test_a_header_that_is_none_is_told_with_a_remedy(header: bytes, remedy: str) -> None:
    with pytest.raises(ExportError, match=remedy):
        columns_of(header, Path("folder/x.csv"))


def test_each_column_that_may_be_named_as_none_is_in_the_remedy() -> None:
    with pytest.raises(ExportError, match=r'set \[posts.columns\] tag_string_copyright = "", tag_string_meta = "" if'):
        columns_of(b"id,rating,score,tag_string_general,tag_string_artist,tag_string_character", Path("x.csv"))
