"""Fields of tags as exports write them: separators, printed lists, lists, entities and words for nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.tag_fields import (
    INVALID_TAGS,
    MAX_POST_TAGS,
    canonical_fields,
    field_problem,
    length_problem,
    settled,
)
from booru_embed_core.schema import ALL_TAGS_COLUMN, TAG_COLUMNS

OPEN = Conventions(tag_separator="auto", null_words=None)
GENERAL, ARTIST = TAG_COLUMNS[:2]


def batch(fields: list[Any], type_: pa.DataType | None = None, column: str = GENERAL) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({column: pa.array(fields, type_ or pa.string())})


def canonical(fields: list[Any], conventions: Conventions, type_: pa.DataType | None = None) -> list[str | None]:
    read, _ = canonical_fields(batch(fields, type_), conventions)
    return read.column(GENERAL).to_pylist()


def found(general: list[str | None], artist: list[str | None] | None = None) -> Conventions:
    columns = {GENERAL: pa.array(general, pa.string())}
    if artist is not None:
        columns[ARTIST] = pa.array(artist, pa.string())
    return settled(pa.table(columns), OPEN)


@pytest.mark.parametrize(
    ("fields", "separator"),
    [
        (["long_hair book", "solo", "", None], " "),
        (["solo", "solo"], " "),
        ([], " "),
        (["long hair, book", "solo, 1girl", "blue eyes"], ","),
        (["a,b", "c,d", "e"], ","),
        (["['long hair', 'book']", "[]", "['a']"], "list"),
        (["[a, b]", "[c]"], "list"),
        (["{a,b}", '{"long hair"}'], "list"),
        # One tag with a comma among many fields with spaces is no separator.
        (["a b", "c d", "e,f g"], " "),
        # Emoticons in brackets are no lists, unless nearly all fields are.
        (["(o)_(o)", "a b", "c d"], " "),
        (["(o)_(o) solo (k)", "(9)", "(o)_(o) (k)"], " "),
        (["{'long hair', 'book'}", "set()", "set()"], "list"),
        (["('a', 'b')", "()"], "list"),
        (["1girl;long hair;solo;sky", "book", "solo;sky"], ";"),
        (["1girl; long hair; solo; sky", *["solo; sky"] * 9, "red eyes"], ";"),
        (["1girl|long_hair|solo|sky", "book"], "|"),
        # Marks within tags are none between tags, however many there are.
        (["1girl ;) ;d ;p solo", "1girl ;) solo"], " "),
        ([":| |_| >:| ||_|| solo", "1girl :| solo", ":|"], " "),
        (["1girl solo sky book chaos;head steins;gate occultic;nine rain dress smile hat cat", "a b steins;gate"], " "),
        (["steins;gate", "chaos;child"], " "),
    ],
)
def test_the_separator_is_found(fields: list[str | None], separator: str) -> None:
    assert found(fields).tag_separator == separator


def test_commas_in_one_column_and_spaces_in_another_are_not_told_apart() -> None:
    general, artist = ["long_hair book solo"] * 3, ["a, b", "c, d", "e"]
    assert found(general, artist).tag_separator == " "
    assert found(["long hair, book, solo", "1girl"], ["the great artist", "b c d"]).tag_separator == ","
    assert found(["long_hair, book, solo", "1girl"], ["a_b", "b c"]).tag_separator == ","


def test_a_separator_that_the_settings_give_is_kept() -> None:
    given_one = replace(OPEN, tag_separator=" ")
    assert settled(pa.table({GENERAL: ["a,b", "c,d"]}), given_one).tag_separator == " "


@pytest.mark.parametrize(
    ("field", "tags"),
    [
        ("long hair, book", "long_hair book"),
        ("  long hair ,book,, ", "long_hair book"),
        ("solo", "solo"),
        ("hatsune miku", "hatsune_miku"),
        (r"artoria pendragon \(fate\), book", "artoria_pendragon_(fate) book"),
        (r"\m/, \o/", r"\m/ \o/"),
        ("", ""),
        (None, ""),
        ("a, b\nc", None),
    ],
)
def test_commas(field: str | None, tags: str | None) -> None:
    conventions = replace(DANBOORU, tag_separator=",")
    assert [one and one.strip() for one in canonical([field], conventions)] == [tags]
    assert (field_problem(GENERAL, field, conventions) is None) == (tags is not None)


@pytest.mark.parametrize(
    ("field", "tags"),
    [
        ("['long hair', 'book']", "long_hair book"),
        ('["it\'s", "say_\\"hi\\""]', 'it\'s say_"hi"'),
        ("[\"it's\", 'b']", "it's b"),
        ("['a' 'b'\n 'c']", "a b c"),  # numpy's, without commas and over lines
        ("[a, b c]", "a b_c"),
        ('{a,"b c"}', "a b_c"),  # PostgreSQL's
        ("('a', 'b')", "a b"),
        ("['\\u3042', '\\x41']", "\u3042 A"),
        ("['a\\\\b']", "a\\b"),
        ("[]", ""),
        ("", ""),
        (None, ""),
        ("a b", None),
        ("['a", None),
        ("['a\\nb']", None),
        (INVALID_TAGS, None),
        ("set()", ""),
        ("{'a', 'b'}", "a b"),
        ("[None]", ""),
        ("['a', nan]", "a"),
        ("['None', 'null']", "None null"),
        ("{a,NULL}", "a"),
        ("[null, a]", "null a"),  # without quotes, only NULL is certainly nothing
        ("(a b)", None),
    ],
)
def test_printed_lists(field: str | None, tags: str | None) -> None:
    conventions = replace(DANBOORU, tag_separator="list")
    assert canonical([field], conventions) == [tags]
    assert (field_problem(GENERAL, field, conventions) is None) == (tags is not None)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" \r\n"), min_size=1), max_size=4))
def test_what_python_prints_of_a_list_comes_back(tags: list[str]) -> None:
    assert canonical([repr(tags)], replace(DANBOORU, tag_separator="list")) == [" ".join(tags)]


@pytest.mark.parametrize("type_", [pa.list_(pa.string()), pa.large_list(pa.large_string())])
def test_lists(type_: pa.DataType) -> None:
    fields = [["long hair", "book"], [], None, ["", None, "a"], [" a "], ["a,b"], ["a\nb"]]
    read = canonical(fields, DANBOORU, type_)
    assert read == ["long_hair book", "", "", "a", "a", "a,b", None]
    problems = [field_problem(GENERAL, field, DANBOORU) for field in fields]
    assert [problem is None for problem in problems] == [one is not None for one in read]


def test_lists_of_plain_tags_keep_their_order_and_their_empty_lists() -> None:
    fields = [["b", "a"], [], ["c d"], None, ["e"]]
    read = [one and one.split() for one in canonical(fields, DANBOORU, pa.list_(pa.string()))]
    assert read == [["b", "a"], "", ["c_d"], "", ["e"]]


def test_a_comma_between_spaces_is_refused_with_both_remedies() -> None:
    assert canonical(["a b", "a,b c", "d"], DANBOORU) == ["a b", None, "d"]
    problem = field_problem(GENERAL, "c a,b", DANBOORU)
    assert problem is not None
    assert "'a,b'; set [posts] tag_separator to ',' if commas separate the tags, or to ' ' if" in problem
    literal = replace(DANBOORU, allow_commas=True)
    assert canonical(["a,b c"], literal) == ["a,b c"]
    assert field_problem(GENERAL, "a,b c", literal) is None


def test_a_comma_of_another_row_is_not_seen_in_a_slice() -> None:
    rows = batch(["a,b", "c d", "e,f"]).slice(1, 1)
    read, _ = canonical_fields(rows, DANBOORU)
    assert read.column(GENERAL).to_pylist() == ["c d"]


def test_entities_are_taken_back_where_the_settings_say_so() -> None:
    fields = ["it&#039;s &lt;3", "a"]
    assert canonical(fields, replace(DANBOORU, html_entities=True)) == ["it's <3", "a"]
    assert canonical(fields, DANBOORU) == fields
    lists = [["it&#039;s"]]
    assert canonical(lists, replace(DANBOORU, html_entities=True), pa.list_(pa.string())) == ["it's"]


def test_words_for_nothing_are_found_where_no_field_is_empty() -> None:
    conventions = found(["a b", "nan", "c"], ["nan", "x", "y"])
    assert conventions.null_words == ("\\N", "nan")
    read, num_words = canonical_fields(batch(["a b", "nan", "nan c", "null", "\\N"]), conventions)
    assert read.column(GENERAL).to_pylist() == ["a b", "", "nan c", "null", ""]
    assert num_words == 2
    assert field_problem(GENERAL, "nan", conventions) is None


def test_a_tag_that_looks_like_nothing_is_a_tag_where_fields_may_be_empty() -> None:
    assert found(["null", "", "a"], ["null", "b", ""]).null_words == ("\\N",)
    # A single use in one column is a tag, too.
    assert found(["null", *["a"] * 300], ["b"] * 301).null_words == ("\\N",)
    assert found(["None"] * 20 + ["a"] * 80, ["b"] * 100).null_words == ("\\N", "None")


@pytest.mark.parametrize("word", ["NA", "nil", "[]"])
def test_other_words_for_nothing(word: str) -> None:
    assert word in (found(["a b", word, "c"], [word, "x", "y"]).null_words or ())


def test_an_empty_list_among_lists_is_no_word_for_nothing() -> None:
    assert found(["['a']", "[]", "['b']"], ["[]", "['x']", "[]"]).null_words == ("\\N",)


@pytest.mark.parametrize(("mark", "field"), [(";", "long hair; solo;book;"), ("|", "long hair|solo | book")])
def test_other_marks(mark: str, field: str) -> None:
    conventions = replace(DANBOORU, tag_separator=mark)
    assert [one and one.strip() for one in canonical([field, "a,b"], conventions)] == ["long_hair solo book", None]
    assert "a comma inside" in (field_problem(GENERAL, "a,b", conventions) or "")


def test_words_that_the_settings_give_are_the_only_ones() -> None:
    conventions = settled(pa.table({GENERAL: ["nan", "a"]}), replace(OPEN, null_words=("-",)))
    assert canonical(["nan", "-", "\\N"], conventions) == ["nan", "", "\\N"]


def test_words_for_nothing_do_not_decide_the_separator() -> None:
    assert found(["\\N", "a, b", "\\N"], ["\\N", "\\N", "\\N"]).tag_separator == ","


def test_the_field_of_all_tags_is_read_like_the_others() -> None:
    read, _ = canonical_fields(batch(["long hair, book"], column=ALL_TAGS_COLUMN), replace(DANBOORU, tag_separator=","))
    assert read.column(ALL_TAGS_COLUMN).to_pylist() == ["long_hair book"]


def test_a_line_break_costs_the_field() -> None:
    assert canonical(["a\nb", "a\rb", "a b"], DANBOORU) == [None, None, "a b"]


@pytest.mark.parametrize(
    ("separator", "type_"), [(" ", None), (",", None), ("list", None), ("\n", None), (" ", pa.list_(pa.string()))]
)
def test_a_post_with_more_tags_than_the_packed_file_counts_is_invalid(
    separator: str, type_: pa.DataType | None
) -> None:
    conventions = replace(DANBOORU, tag_separator=separator)
    most = [f"t{number}" for number in range(MAX_POST_TAGS)]
    written = {"list": str, "\n": "\n".join, " ": " ".join, ",": ", ".join}[separator]
    values: list[Any] = [tags if type_ else written(tags) for tags in (most, [*most, "u"], ["a"])]
    read = canonical(values, conventions, type_)
    assert read[0] == " ".join(most)
    assert read[1:] == [None, "a"]
    problems = [length_problem({GENERAL: value}, conventions) for value in values]
    assert problems == [None, f"{MAX_POST_TAGS + 1} tags, more than {MAX_POST_TAGS}", None]


def test_the_tags_of_all_fields_count_towards_the_most_of_a_post() -> None:
    half = " ".join(f"t{number}" for number in range(MAX_POST_TAGS // 2 + 1))
    columns = pa.RecordBatch.from_pydict({name: pa.array([half, "a"], pa.string()) for name in (GENERAL, ARTIST)})
    read, _ = canonical_fields(columns, DANBOORU)
    assert [None in row.values() for row in read.to_pylist()] == [True, False]
    assert length_problem(columns.to_pylist()[0], DANBOORU) is not None
