"""What a query says of itself."""

from __future__ import annotations

from booru_embed_core.search.query import Query
from tests.core.search.query_helpers import TOKENIZER, parsed


def names(token_ids: tuple[int, ...]) -> list[str]:
    return [tag for _, tag in TOKENIZER.decode(token_ids)]


def test_tags_are_told_by_sign_each_once() -> None:
    query = parsed("hat cat - solo blorb + hat 1girl zebra")
    assert names(query.token_ids()) == ["hat", "cat", "solo", "1girl"]
    assert names(query.token_ids(1)) == ["hat", "cat", "1girl"]
    assert names(query.token_ids(-1)) == ["solo"]
    assert names(query.first_token_ids()) == ["hat", "cat"]
    assert query.unknown() == ("blorb", "zebra")
    assert (query.unknown(1), query.unknown(-1)) == (("zebra",), ("blorb",))


def test_a_query_without_a_first_term_has_no_first_tags() -> None:
    assert Query().first_token_ids() == ()
    assert parsed("rating:g - hat").first_token_ids() == ()
