"""What numbers and words for categories mean."""

from __future__ import annotations

from typing import Any

import pytest

from booru_embed_core.posts.tag_tables.numbers import CategoryNumbers, Meaning, NoTag, Site
from booru_embed_core.schema import Category


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, Category.GENERAL),
        ("1", Category.ARTIST),
        ("3 ", Category.COPYRIGHT),
        (4.0, Category.CHARACTER),
        ("5.0", Category.META),
        ("Metadata", Category.META),
        ("COPYRIGHT", Category.COPYRIGHT),
        ("tag", Category.GENERAL),
        ("rating", NoTag.RATING),
        ("deprecated", NoTag.DEPRECATED),
        (2, None),
        (6, None),
        (4.5, None),
        (None, None),
        ("", None),
        ([0], None),
        ({}, None),
    ],
)
def test_what_a_category_is_called(value: Any, expected: Meaning) -> None:
    assert CategoryNumbers().meanings([value, 0]) == [expected, Category.GENERAL]


def test_the_settings_come_first() -> None:
    numbers = CategoryNumbers({"5": Category.GENERAL, "Lore": Category.META, "-1": Category.META}, Site.MOEBOORU)
    assert numbers.meanings([5, "lore", -1, 3]) == [Category.GENERAL, Category.META, Category.META, Category.COPYRIGHT]


def test_a_site_has_numbers_of_its_own() -> None:
    assert CategoryNumbers({"": Category.GENERAL}).meanings([None, "", 4]) == [
        Category.GENERAL,
        Category.GENERAL,
        Category.CHARACTER,
    ]
    assert CategoryNumbers(site=Site.GELBOORU).meanings([5, 6]) == [Category.META, NoTag.DEPRECATED]
    assert CategoryNumbers(site=Site.MOEBOORU).meanings([4, 5, 6]) == [Category.CHARACTER, None, None]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (7, 'set [posts] category_numbers, such as { 7 = "general" } or, for e621, preset = "e621-export"'),
        (-1, 'such as { -1 = "general" }'),
        ("my own", 'such as { "my own" = "general" }'),
        (None, 'no category; correct it or set [posts] category_numbers, such as { "" = "general" }'),
    ],
)
def test_an_unknown_category_comes_with_the_line_to_set(value: Any, problem: str) -> None:
    assert problem in CategoryNumbers().problem(value)
