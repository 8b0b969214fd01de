"""Which column holds what."""

from __future__ import annotations

import pytest

from booru_embed_core.posts.tag_tables.columns import Role, columns_by_role, describes_posts, describes_tags, is_header


def test_columns_are_known_by_many_names() -> None:
    assert columns_by_role(["Name", "type", " CATEGORY ", "tag", "n"]) == {
        Role.NAME: "tag",
        Role.CATEGORY: " CATEGORY ",
    }
    assert columns_by_role(["old", "new", "Status"]) == {Role.OLD: "old", Role.NEW: "new", Role.STATUS: "Status"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["name", "aliases"], True),
        (["tag", "type"], True),
        (["antecedent", "consequent"], True),
        (["antecedent", "category"], False),
        (["name", "0", "5"], False),
    ],
)
def test_a_header_names_what_a_table_needs(names: list[str], expected: bool) -> None:
    assert is_header(names) is expected


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["id", "name", "category", "post_count"], True),
        (["name", "type", "ambiguous"], True),
        (["antecedent_name", "consequent_name"], True),
        (["id", "rating", "score", "tags"], False),
        (["name", "category", "tag_string"], False),
        (["id"], False),
    ],
)
def test_tags_are_told_from_posts(columns: list[str], expected: bool) -> None:
    assert describes_tags(columns) is expected


def test_posts_are_told_by_their_columns() -> None:
    assert describes_posts(["id", "rating"])
    assert describes_posts(["id", "tag_string_general"])
    assert not describes_posts(["id", "name", "category"])
