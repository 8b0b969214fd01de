"""Filters beside what Python says of each post."""

from __future__ import annotations

import numpy as np
import pytest

from booru_embed_core.search.filters import Either, Every, Filter, HasAny, Not, Order, RatingIs, Within, passing
from booru_embed_core.search.posts_table import PostsTable
from tests.core.search.query_helpers import POSTS, TAGS, Post

CAT, HAT = TAGS.index("cat"), TAGS.index("hat")


@pytest.mark.parametrize(
    ("one", "passes", "wanted"),
    [
        (HasAny((CAT, HAT)), lambda post: bool({"cat", "hat"} & post.tags), (CAT, HAT)),
        (HasAny(()), lambda _: False, ()),
        (Not(HasAny((CAT,))), lambda post: "cat" not in post.tags, ()),
        (Every(()), lambda _: True, ()),
        (
            Every((HasAny((CAT,)), Not(HasAny((HAT,))))),
            lambda post: "cat" in post.tags and "hat" not in post.tags,
            (CAT,),
        ),
        (
            Either((HasAny((CAT,)), RatingIs(frozenset((0,))))),
            lambda post: "cat" in post.tags or post.rating == "g",
            (CAT,),
        ),
        (Either(()), lambda _: False, ()),
        (RatingIs(frozenset()), lambda _: False, ()),
        (Within("score", ((-(2**63), 3), (9, 2**63 - 1))), lambda post: post.score <= 3 or post.score >= 9, ()),
        (Within("post_id", ((103, 109),)), lambda post: 103 <= post.id <= 109, ()),
    ],
)
def test_a_mask_is_what_the_posts_say(
    posts_table: PostsTable, one: Filter, passes: object, wanted: tuple[int, ...]
) -> None:
    assert callable(passes)
    assert one.mask(posts_table).tolist() == [passes(post) for post in POSTS]
    assert one.wanted() == wanted
    mask = one.mask(posts_table)
    mask[:] = True  # the caller may change it: the files are untouched
    assert one.mask(posts_table).tolist() == [passes(post) for post in POSTS]


def test_without_filters_there_is_no_mask(posts_table: PostsTable) -> None:
    assert passing([], posts_table) is None


@pytest.mark.parametrize("k", [1, 7, 500])
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("column", ["score", "post_id"])
def test_an_order_takes_the_first(posts_table: PostsTable, column: str, descending: bool, k: int) -> None:
    def key(post: Post) -> tuple[int, int]:
        sign = -1 if descending else 1
        return (sign * post.score if column == "score" else 0, sign * post.id)

    rows = np.arange(0, len(POSTS), 3)
    expected = sorted((POSTS[row] for row in rows.tolist()), key=key)[:k]
    order = Order(column, descending)  # type: ignore[arg-type]
    found = order.first(posts_table, rows, k)
    assert posts_table.post_id[found].tolist() == [post.id for post in expected]


def test_a_single_value_is_told() -> None:
    assert Within("post_id", ((3, 3),)).single() == 3
    assert Within("post_id", ((3, 4),)).single() is None
    assert Within("post_id", ((3, 3), (5, 5))).single() is None
