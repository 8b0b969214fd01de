"""Queries as people type them, and that a search parses each one once."""

from __future__ import annotations

import pytest

from booru_embed_core.schema import RATING_NAMES
from booru_embed_core.search.query import Query, as_query, parse_query


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1girl, cat ears", Query(((1, "1girl, cat ears"),))),
        ("", Query(())),
        ("hatsune_miku - twintails + short_hair", Query(((1, "hatsune_miku"), (-1, "twintails"), (1, "short_hair")))),
        ("a b  -  c d", Query(((1, "a b"), (-1, "c d")))),
        ("x-ray +_+ :-) -_-", Query(((1, "x-ray +_+ :-) -_-"),))),
        ("1girl rating:g solo", Query(((1, "1girl   solo"),), frozenset("g"))),
        ("rating:General,s", Query((), frozenset("gs"))),
        ("rating:g,s rating:s,e", Query((), frozenset("s"))),
        ("rating:g rating:e", Query((), frozenset())),
        ("rating:g, 1girl", Query(((1, "1girl"),), frozenset("g"))),
        ("id:12 id:7", Query((), None, (12, 7))),
        ("id:12 - hat", Query(((-1, "hat"),), None, (12,))),
        ("overrating:g bid:3", Query(((1, "overrating:g bid:3"),))),
    ],
)
def test_a_query_is_taken_apart(text: str, expected: Query) -> None:
    assert parse_query(text) == expected


@pytest.mark.parametrize("text", ["a - ", " - a", "a - + b", "+ a", "id:3 - ", "a - id:3"])
def test_a_sign_with_nothing_beside_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nothing on one side of a sign"):
        parse_query(text)


@pytest.mark.parametrize("text", ["rating:x", "1girl rating:", "rating:g,,s"])
def test_an_unknown_rating_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rating:\S* in the query: '\w*' is not one of g, s, q, e"):
        parse_query(text)


@pytest.mark.parametrize("name", RATING_NAMES)
def test_a_rating_has_the_names_that_captions_know(name: str) -> None:
    for typed in (name, name.upper()):
        assert parse_query(f"1girl rating:{typed}").ratings == frozenset(RATING_NAMES[name])


def test_a_parsed_query_is_taken_as_it_is() -> None:
    query = parse_query("1girl - solo id:3")
    assert as_query(query) is query
    assert as_query("1girl - solo id:3") == query
    assert query.text == "1girl - solo id:3"
