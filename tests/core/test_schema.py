"""Orders that files on disk rely on: a change here is a change of format."""

from __future__ import annotations

import json
import subprocess
import sys

from booru_embed_core.schema import (
    CATEGORIES,
    EXPORT_RATING_NAMES,
    MAX_U16_TAGS,
    NUM_CATEGORIES,
    NUM_SCORE_BINS,
    PAD_TOKEN,
    POST_COLUMNS,
    RATING_NAMES,
    RATINGS,
    SPECIAL_TOKENS,
    SPLITS,
    SUMMARY_TOKEN,
    TAG_SEPARATOR,
    UNKNOWN_TOKEN,
    Category,
    tag_column,
)


def test_categories_are_in_the_order_of_the_packed_file() -> None:
    assert [category.value for category in CATEGORIES] == ["general", "artist", "copyright", "character", "meta"]
    assert NUM_CATEGORIES == 5
    assert Category("character") is Category.CHARACTER


def test_columns_are_those_of_the_export() -> None:
    assert POST_COLUMNS == (
        "id", "rating", "score", "tag_string_general", "tag_string_artist", "tag_string_copyright",
        "tag_string_character", "tag_string_meta",
    )  # fmt: skip
    assert tag_column(Category.META) == "tag_string_meta"


def test_ratings_and_splits_are_in_the_order_of_their_ids() -> None:
    assert RATINGS == ("g", "s", "q", "e")
    assert SPLITS == ("train", "validation", "test")


def test_each_rating_has_its_letter_and_its_word_and_exports_may_not_say_safe() -> None:
    words = {"g": "general", "s": "sensitive", "q": "questionable", "e": "explicit"}
    named = {name: rating for rating, word in words.items() for name in (rating, word)}
    assert {**named, "safe": "g"} == RATING_NAMES
    assert named == EXPORT_RATING_NAMES


def test_special_tokens_come_in_a_fixed_order() -> None:
    assert SPECIAL_TOKENS[:3] == (PAD_TOKEN, UNKNOWN_TOKEN, SUMMARY_TOKEN)
    assert SPECIAL_TOKENS[3:7] == ("rating g", "rating s", "rating q", "rating e")
    assert SPECIAL_TOKENS[7:] == tuple(f"score decile {decile}" for decile in range(NUM_SCORE_BINS))


def test_no_tag_can_be_spelled_like_a_special_token() -> None:
    assert len(set(SPECIAL_TOKENS)) == len(SPECIAL_TOKENS)
    assert all(TAG_SEPARATOR in token for token in SPECIAL_TOKENS)


def test_local_ids_of_16_bits_number_that_many_tags() -> None:
    assert MAX_U16_TAGS == 2**16


def test_words_and_settings_cost_no_torch() -> None:
    code = (
        "import json, sys, booru_embed_core, booru_embed_core.schema, booru_embed_core.settings\n"
        "print(json.dumps([name for name in ('torch', 'duckdb', 'pyarrow', 'dagster') if name in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(found.stdout) == []
