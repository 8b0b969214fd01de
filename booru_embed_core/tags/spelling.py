"""A unique spelling for each tag of a vocabulary, also as a file of the ``tokenizers`` library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from booru_embed_core.schema import CATEGORIES, SPECIAL_TOKENS, TAG_SEPARATOR, UNKNOWN_TOKEN


def unique_spellings(tags: Sequence[str], categories: Sequence[int], counts: Sequence[int]) -> dict[str, int]:
    """The token_id of each tag by its unique spelling, in the order of ids.

    A spelling is the bare tag. Of two tags of one name, the less used is spelled ``category:tag``; if both are used
    equally often, the later one is. The prefix is repeated while another tag has that spelling.
    """
    first = dict(zip(reversed(tags), range(len(tags) - 1, -1, -1), strict=True))
    spellings = list(tags)
    if len(first) < len(tags):
        later = [tag_index for tag_index, index in enumerate(map(first.__getitem__, tags)) if index != tag_index]
        owner: dict[str, int] = {}
        shared = sorted({*later, *(first[tags[tag_index]] for tag_index in later)})
        for tag_index in shared:
            tag = tags[tag_index]
            if tag not in owner or counts[tag_index] > counts[owner[tag]]:
                owner[tag] = tag_index
        added: set[str] = set()
        for tag_index in shared:
            if owner[tags[tag_index]] != tag_index:
                prefix = f"{CATEGORIES[categories[tag_index]].value}:"
                spelling = prefix + tags[tag_index]
                while spelling in first or spelling in added:
                    spelling = prefix + spelling
                spellings[tag_index] = spelling
                added.add(spelling)
    return dict(zip(spellings, range(len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + len(tags)), strict=True))


def tokenizers_json(spellings: Mapping[str, int]) -> str:
    """A ``tokenizer.json`` that encodes `spellings`, separated by one space each, to their token ids.

    Special tokens are only words of the vocabulary: as added tokens, they would be searched for inside tags. They
    contain a space, so no text encodes to them. The same holds for the unknown token of a category.
    """
    words = {token: token_id for token_id, token in enumerate(SPECIAL_TOKENS)} | dict(spellings)
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": TAG_SEPARATOR},
            "behavior": "Removed",
            "invert": False,
        },
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": UNKNOWN_TOKEN},
    }
    return json.dumps(tokenizer, ensure_ascii=False, indent=1) + "\n"
