"""Namespaces of tags: which are known, what stays whole, and which rating counts."""

from __future__ import annotations

from collections import Counter

from booru_embed_core.posts.conventions import DANBOORU
from booru_embed_core.posts.readers import namespaces
from booru_embed_core.posts.readers.namespaces import split_namespaces
from booru_embed_core.schema import Category


def test_known_namespaces_are_taken_off_in_any_case_and_others_are_counted() -> None:
    unknown: Counter[str] = Counter()
    tags = ["Creator: a b", "studio:c", "page:3", "page:4", ":d", "creator:", "re:zero", "meta:x:y", "plain", "8:15"]
    split = split_namespaces(tags, {}, unknown)
    assert split.by_category == {Category.ARTIST: ["a b", "c"], Category.META: ["x:y"]}
    assert split.others == ["page:3", "page:4", ":d", "creator:", "re:zero", "plain", "8:15"]
    assert unknown == {"page": 2, "re": 1}


def test_the_settings_name_further_ones_and_decide_over_known_ones() -> None:
    given = {"circle": Category.ARTIST, "series": Category.META}
    split = split_namespaces(["circle:a", "series:b"], given)
    assert split.by_category == {Category.ARTIST: ["a"], Category.META: ["b"]}


def test_the_most_explicit_rating_that_is_known_counts() -> None:
    def rating(*values: str) -> str | None:
        return split_namespaces([f"rating:{value}" for value in values], {}).rating(DANBOORU.ratings)

    assert rating() is None
    assert rating("General", "q", "sensitive") == "q"
    assert rating("safe", "s") == "s"
    assert rating("safe", "five stars") == "safe"


def test_counts_are_bounded() -> None:
    unknown: Counter[str] = Counter()
    split_namespaces([f"n{number}:v" for number in range(2000)], {}, unknown)
    assert len(unknown) == namespaces._MAX_COUNTED
    split_namespaces(["n0:v"], {}, unknown)
    assert unknown["n0"] == 2
