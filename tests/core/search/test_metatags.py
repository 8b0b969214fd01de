"""Metatags and the names that only look like them."""

from __future__ import annotations

import pytest

from booru_embed_core.search.filters import Order, RatingIs, Within
from booru_embed_core.search.metatags import (
    MAX_NUMBER,
    ORDERS,
    UNANSWERED,
    is_metatag,
    read_metatag,
    refuse_named_values,
)


@pytest.mark.parametrize(
    "word", ["rating:g", "Score:>3", "id:1", "order:id", "user:bob", "md5:0f", "scor:>10", "foo:<3", "foo:..5", "ids:3"]
)
def test_metatags_are_told(word: str) -> None:
    assert is_metatag(word, lambda _: False)
    assert not is_metatag(word, lambda name: name == word), "a tag of this name is a tag"


@pytest.mark.parametrize(
    "word", ["re:zero", ":3", "3:", "smile:1.2", "artist:bob", "char:>_<", "a b:c", "", ":", "score"]
)
def test_other_names_with_a_colon_are_no_metatags(word: str) -> None:
    assert not is_metatag(word, lambda _: False)


def test_a_tag_before_a_weight_is_no_metatag() -> None:
    assert not is_metatag("scored:1.2", lambda name: name == "scored")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("score:7", Within("score", ((7, 7),))),
        ("SCORE:=7", Within("score", ((7, 7),))),
        ("score:>-7", Within("score", ((-6, MAX_NUMBER),))),
        ("score:<-7", Within("score", ((-MAX_NUMBER - 1, -8),))),
        ("id:3..1,9", Within("post_id", ((1, 3), (9, 9)))),
        ("id:1...3", Within("post_id", ((1, 2),))),
        ("rating:Explicit,q", RatingIs(frozenset((2, 3)))),
        ("order:score", Order("score", descending=True)),
    ],
)
def test_values_are_read(word: str, expected: object) -> None:
    assert read_metatag(word) == expected


def test_an_unknown_name_with_a_value_is_refused() -> None:
    refuse_named_values(["blorb", "artist:foo", "smile:3", "foo_(re:zero)", "x:a", "foo:_bar", ":d"])
    with pytest.raises(ValueError, match=r"^style:pixel: the index knows .* but not 'style'; leave it out$"):
        refuse_named_values(["blorb", "style:pixel"])


def test_every_metatag_that_is_not_answered_is_named() -> None:
    assert not UNANSWERED & {"rating", "score", "id", "order"}
    for name in UNANSWERED:
        with pytest.raises(ValueError, match=f"^{name}:x: "):
            read_metatag(f"{name}:x")
    assert all(read_metatag(f"order:{name}") == order for name, order in ORDERS.items())


@pytest.mark.parametrize("start", ["score:", "order:", "rating:", "limit:", "scor:", "user:", "id:1..", "rating:g,"])
def test_a_message_shows_the_beginning_of_a_long_word(start: str) -> None:
    with pytest.raises(ValueError, match=f"^{start}x+") as raised:
        read_metatag(start + "x" * 10_000)
    assert len(str(raised.value)) < 400
    with pytest.raises(ValueError, match="the index knows") as raised:
        read_metatag("x" * 10_000 + ":a")
    assert len(str(raised.value)) < 400
