"""The words that all other modules use: categories, export columns, ratings, splits and special tokens.

Nothing here reads a file. Orders are part of the formats: a category's index in ``CATEGORIES`` is its ``category_id``,
a rating's index in ``RATINGS`` its ``rating_id``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Category(StrEnum):
    """A tag's category, in schema order (the order of fields in the packed file)."""

    GENERAL = "general"
    ARTIST = "artist"
    COPYRIGHT = "copyright"
    CHARACTER = "character"
    META = "meta"


CATEGORIES: Final = tuple(Category)
NUM_CATEGORIES: Final = len(CATEGORIES)

RATINGS: Final = ("g", "s", "q", "e")
"""general, sensitive, questionable, explicit; the index is the ``rating_id`` (uint8)."""

RATING_NAMES: Final = {
    **dict.fromkeys(("g", "general", "safe"), "g"),
    **dict.fromkeys(("s", "sensitive"), "s"),
    **dict.fromkeys(("q", "questionable"), "q"),
    **dict.fromkeys(("e", "explicit"), "e"),
}
"""The rating by each name that captions and search queries may give it."""

# Not every `safe` of an export is `g`: Danbooru's `safe` of before 2022 covers today's g and s, and on other boorus
# it is the mildest of three ratings. Posts would get a wrong rating silently, so [posts] rating_names has to decide.
EXPORT_RATING_NAMES: Final = {name: rating for name, rating in RATING_NAMES.items() if name != "safe"}
"""The rating by each name that an export may give it: `RATING_NAMES` without ``safe``, which is ambiguous there."""

TAG_SEPARATOR: Final = " "
"""Only U+0020 separates tags in an export: other white space occurs inside tags."""


def tag_column(category: Category) -> str:
    """The export's column that holds the tags of `category`, such as ``tag_string_general``."""
    return f"tag_string_{category.value}"


TAG_COLUMNS: Final = tuple(tag_column(category) for category in CATEGORIES)
ALL_TAGS_COLUMN: Final = "tag_string"
"""The tags of all categories, which an export may have instead of `TAG_COLUMNS`."""
POST_COLUMNS: Final = ("id", "rating", "score", *TAG_COLUMNS)
"""Columns of an export: ``id`` int64, ``rating`` string of `RATINGS`, ``score`` int32, tag strings."""

FLAG_COLUMNS: Final = ("is_deleted", "is_banned", "is_flagged")
"""Columns that an export may have; a post with a true one is filtered."""


class Output(StrEnum):
    """Formats in which ``booru-embed ingest`` writes posts."""

    PARQUET = "parquet"
    CSV = "csv"
    TSV = "tsv"


class ExportFormat(StrEnum):
    """Formats in which ``booru-embed export`` writes a checkpoint."""

    HUB = "hub"
    LIGHT = "light"
    SENTENCE_TRANSFORMERS = "sentence-transformers"
    ONNX = "onnx"
    DEMO = "demo"
    PARQUET = "parquet"
    WORD2VEC = "word2vec"
    PROJECTOR = "projector"


SPLITS: Final = ("train", "validation", "test")
"""The index is the ``split_id`` (uint8)."""

NUM_SCORE_BINS: Final = 10
"""The model reads a score as its decile among the training posts of the same rating."""

# Special tokens are spelled with a space, which no tag can contain, so that no tag collides with one.
PAD_TOKEN: Final = "pad token"
UNKNOWN_TOKEN: Final = "unknown tag"
SUMMARY_TOKEN: Final = "summary token"
RATING_TOKENS: Final = tuple(f"rating {rating}" for rating in RATINGS)
SCORE_TOKENS: Final = tuple(f"score decile {decile}" for decile in range(NUM_SCORE_BINS))
SPECIAL_TOKENS: Final = (PAD_TOKEN, UNKNOWN_TOKEN, SUMMARY_TOKEN, *RATING_TOKENS, *SCORE_TOKENS)
"""The first token ids, in this order; tags follow from ``len(SPECIAL_TOKENS)``."""

UNKNOWN_TAGS: Final = {category: f"unknown {category.value}" for category in CATEGORIES}
"""The token of each category for all tags that the vocabulary cuts off, if the settings want one."""

MAX_U16_TAGS: Final = 65_536
"""A category with more tags needs 32-bit local ids in the packed file."""
