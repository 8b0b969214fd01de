"""Presets: what the exports of well-known sites and tools call things. A preset is a set of default values of a source.

A key that the settings give themselves wins over the preset's. In `columns` and the other tables, each name does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from booru_embed_core.schema import ALL_TAGS_COLUMN, TAG_COLUMNS, Category

PresetName: TypeAlias = Literal[
    "caption-folder",
    "danbooru-2021",
    "danbooru-api",
    "e621-api",
    "e621-export",
    "gallery-dl",
    "gelbooru-api",
    "hydrus",
    "kohya",
    "moebooru-api",
]

# e621's `s` is safe. Species and what the site marks as invalid or lore have no category of their own here.
_E621: Final[Mapping[str, Any]] = {
    "rating_names": {"s": "g", "safe": "g"},
    "category_numbers": {
        "2": Category.ARTIST,  # contributor
        "5": Category.GENERAL,  # species
        "6": Category.META,  # invalid
        "7": Category.META,
        "8": Category.META,  # lore
    },
}
_CAPTIONS: Final[Mapping[str, Any]] = {"missing_score": 0, "missing_rating": "g"}

PRESETS: Final[Mapping[PresetName, Mapping[str, Any]]] = {
    "caption-folder": _CAPTIONS,
    "danbooru-2021": {"rating_names": {"s": "g"}},
    "danbooru-api": {},
    "e621-api": _E621,
    "e621-export": _E621,
    "gallery-dl": {"html_entities": True, "missing_score": 0},
    "gelbooru-api": {
        "columns": {"tag_string": "tags", "is_deleted": "status"},
        "rating_names": {"safe": "g"},
        "html_entities": True,
    },
    "hydrus": {**_CAPTIONS, "tag_separator": "\n", "rating_names": {"safe": "g"}},
    "kohya": {**_CAPTIONS, "tag_separator": ","},
    "moebooru-api": {
        "columns": {"tag_string": "tags", "is_deleted": "status"},
        "rating_names": {"s": "g", "safe": "g"},
        # Circle and faults, as on yande.re. Konachan has 5 for style and 6 for circle.
        "category_numbers": {"5": Category.ARTIST, "6": Category.META},
    },
}


def with_preset(preset: PresetName | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of a source, and those of its `preset` that it does not give itself."""
    merged = dict(PRESETS[preset]) if preset else {}
    if {*TAG_COLUMNS, ALL_TAGS_COLUMN} & values.get("columns", {}).keys():
        # The source names its columns of tags, so the preset's would be further ones.
        columns = merged.get("columns", {}).items()
        merged["columns"] = {name: column for name, column in columns if name not in (*TAG_COLUMNS, ALL_TAGS_COLUMN)}
    for key, value in values.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, Mapping) else value
    return merged
