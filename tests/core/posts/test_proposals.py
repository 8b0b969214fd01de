"""Settings that are proposed for columns and reasons, and never against those that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from booru_embed_core.posts.conventions import DANBOORU
from booru_embed_core.posts.proposals import merged, of_columns, of_error, of_reasons, without_categories
from booru_embed_core.posts.validation import ColumnsError
from booru_embed_core.schema import POST_COLUMNS, TAG_COLUMNS

ALL = list(POST_COLUMNS)


@pytest.mark.parametrize(
    ("found", "missing", "proposed"),
    [
        ([*ALL[:2], *ALL[3:]], ["score"], {"missing_score": 0}),
        ([*ALL[:2], *ALL[3:], "Up Score"], ["score"], {"columns": {"score": "Up Score"}}),
        (["ID", *ALL[1:]], ["id"], {"columns": {"id": "ID"}}),
        (["post-id", "image_id", *ALL[1:]], ["id"], {"columns": {"id": "post-id"}}),
        ([*ALL[:-1], "tag_strings_meta"], ["tag_string_meta"], {"columns": {"tag_string_meta": "tag_strings_meta"}}),
        (ALL[:-1], ["tag_string_meta"], {"columns": {"tag_string_meta": ""}}),
        ([*ALL[:3], "captions"], TAG_COLUMNS, {"columns": {"tag_string": "captions"}}),
        ([*ALL[:3], "created_at"], TAG_COLUMNS, {}),
        (
            [*ALL[:3], "characters", "artist_tags"],
            TAG_COLUMNS,
            {
                "columns": dict.fromkeys(TAG_COLUMNS, "")
                | {"tag_string_character": "characters", "tag_string_artist": "artist_tags"}
            },
        ),
        (ALL, ["is_deleted"], {"columns": {"is_deleted": ""}}),
    ],
)  # fmt: skip
def test_columns_are_found_by_names_like_theirs(
    found: Sequence[str], missing: Sequence[str], proposed: dict[str, Any]
) -> None:
    error = ColumnsError("", found, missing)
    values, comments = of_columns(error, {}, DANBOORU)
    assert values == proposed
    keys = {(key, name) for key, value in values.items() if isinstance(value, dict) for name in value}
    assert set(comments) == keys | {(key,) for key, value in values.items() if not isinstance(value, dict)}


def test_what_is_given_is_not_proposed() -> None:
    error = ColumnsError("", ["id", "rating", *TAG_COLUMNS, "points"], ["score"])
    assert of_columns(error, {"columns": {"score": "votes"}}, DANBOORU)[0] == {}
    assert of_columns(ColumnsError("", ALL[1:], ["id"]), {"missing_id": "reject"}, DANBOORU)[0] == {}
    assert of_reasons(["score is missing"], {"missing_score": "reject"})[0] == {}
    assert without_categories("tags", {"columns": {"tag_string_artist": "artists"}}) == ({}, {})
    assert merged({"columns": {"id": "a"}, "limit": 1}, {"columns": {"id": "b", "score": "c"}, "limit": 2}) == {
        "columns": {"id": "a", "score": "c"},
        "limit": 1,
    }


@pytest.mark.parametrize(
    ("reason", "proposed"),
    [
        ("id is missing", {"missing_id": "row"}),
        ("rating is missing; set it", {"missing_rating": "g"}),
        ("rating 'Questionable?' is not one of g", {"rating_names": {"Questionable?": "q"}}),
        ("rating '2' is not one of g", {"rating_names": {"2": "q"}}),
        ("rating 'Unrated' is not one of g", {"rating_names": {"Unrated": "q"}}),
        ("is_banned '-1' is neither true nor false", {"true_values": {"is_banned": ["-1"]}}),
        ("is_banned 'maybe' is neither true nor false", {}),
        ("a comma inside tag_string_artist: 'a,b'", {"tag_separator": " "}),
        ("3 fields instead of 9", {}),
    ],
)
def test_reasons_ask_for_settings(reason: str, proposed: dict[str, Any]) -> None:
    assert of_reasons([reason], {})[0] == proposed


def test_errors_may_name_their_remedy() -> None:
    assert of_error("x: set [posts] preset to 'kohya', which")[0] == {"preset": "kohya"}
    assert of_error('x; set [posts.category_numbers] "9" = "general", or')[0] == {"category_numbers": {"9": "general"}}
    assert of_error('x; set [posts.category_numbers] lore = "general"')[0] == {"category_numbers": {"lore": "general"}}
    assert of_error("x: cannot be parsed; check the file") == ({}, {})


def test_columns_of_a_nested_post_are_found_by_their_ends() -> None:
    columns = [f"post.{name}" for name in POST_COLUMNS]
    values, _ = of_columns(ColumnsError("no", (*columns, "other.md5"), POST_COLUMNS), {}, DANBOORU)
    assert values == {"columns": dict(zip(POST_COLUMNS, columns, strict=True))}
