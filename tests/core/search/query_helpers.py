"""A small vocabulary with hostile names, posts of it, and what Python says of a query's filters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from booru_embed_core.schema import CATEGORIES, RATINGS, Category
from booru_embed_core.search.filters import passing
from booru_embed_core.search.parser import parse_query
from booru_embed_core.search.posts_table import PostsTable, write_posts_table
from booru_embed_core.search.query import Query
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab

GENERAL: Final = (
    *("1girl", "solo", "cat", "cat_ears", "dog_ears", "hat", "long_hair", "blue_eyes", "blue", "black_and_white"),
    *(":)", ";)", ":3", "-_-", "(o)_(o)", "+_+", "x-ray", "ears_down", "user", "a,b"),
)
OTHERS: Final = {
    Category.COPYRIGHT: ("re:zero", "fate"),
    Category.CHARACTER: ("miku_(fate)", "tracer_(overwatch)", "solo_(fate)"),
}
TAGS: Final = (*GENERAL, *OTHERS[Category.COPYRIGHT], *OTHERS[Category.CHARACTER])
ALIASES: Final = {Category.GENERAL: {"longhair": "long_hair"}}


class Post(NamedTuple):
    """A post as Python sees it."""

    tags: frozenset[str]
    rating: str
    score: int
    id: int


def tokenizer() -> Tokenizer:
    """The tokenizer of `TAGS`, the first the most used."""
    categories = [CATEGORIES.index(category) for category, tags in OTHERS.items() for _ in tags]
    category_ids = np.array([0] * len(GENERAL) + categories, np.uint8)
    counts = np.arange(len(TAGS), 0, -1, dtype=np.int64)
    return Tokenizer(Vocab(TAGS, category_ids, counts, aliases=ALIASES))


def posts(num: int = 200, seed: int = 5) -> list[Post]:
    """Posts of random tags."""
    numbers = np.random.default_rng(seed)
    return [
        Post(
            frozenset(tag for tag in TAGS if numbers.random() < 0.4),
            RATINGS[numbers.integers(4)],
            int(numbers.integers(-5, 30)),
            100 + 3 * row,
        )
        for row in range(num)
    ]


def table_of(folder: Path, made: list[Post]) -> PostsTable:
    """The posts table of `made`, written to `folder`."""
    index_of = {tag: index for index, tag in enumerate(TAGS)}
    records = [[index_of[tag] for tag in post.tags] for post in made]
    write_posts_table(
        folder,
        np.array([post.id for post in made]),
        np.array([RATINGS.index(post.rating) for post in made], np.uint8),
        np.array([post.score for post in made], np.int32),
        [(np.array([tag for record in records for tag in record], np.int64), np.array([*map(len, records)]))],
        len(TAGS),
    )
    return PostsTable.open(folder)


TOKENIZER: Final = tokenizer()
POSTS: Final = posts()


def parsed(text: str) -> Query:
    """The query of `text` for `TOKENIZER`."""
    return parse_query(text, TOKENIZER)


def plain(text: str, sign: int = 1) -> list[str]:
    """The plain tags of a query."""
    return [tag for _, tag in TOKENIZER.decode(parsed(text).token_ids(sign))]


def passing_ids(text: str, table: PostsTable) -> set[int]:
    """The ids of the posts that pass the filters of a query."""
    mask: Any = passing(parsed(text).filters, table)
    return set(table.post_id.tolist()) if mask is None else set(table.post_id[mask].tolist())


def expected_ids(passes: Callable[[Post], bool]) -> set[int]:
    """The ids of the posts that fulfil `passes`."""
    return {post.id for post in POSTS if passes(post)}
