"""One spelling for each tag of a vocabulary, and the same as a file of the ``tokenizers`` library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from booru_embed_core.schema import CATEGORIES, SPECIAL_TOKENS, TAG_SEPARATOR, UNKNOWN_TOKEN


def unique_spellings(tags: Sequence[str], categories: Sequence[int], counts: Sequence[int]) -> dict[str, int]:
    """A spelling of its own for each tag, with its token_id, in the order of ids.

    The bare tag, or ``category:tag`` for the less used of two tags of one name (of equally used ones the first stays
    bare); the prefix is repeated where that is again some tag's spelling.
    """
    owner: dict[str, int] = {}
    for tag_index, tag in enumerate(tags):
        if tag not in owner or counts[tag_index] > counts[owner[tag]]:
            owner[tag] = tag_index
    ids: dict[str, int] = {}
    for tag_index, tag in enumerate(tags):
        spelling = tag
        if owner[tag] != tag_index:
            prefix = f"{CATEGORIES[categories[tag_index]].value}:"
            spelling = prefix + tag
            while spelling in owner or spelling in ids:
                spelling = prefix + spelling
        ids[spelling] = len(SPECIAL_TOKENS) + tag_index
    return ids


def tokenizers_json(spellings: Mapping[str, int]) -> str:
    """A ``tokenizer.json`` that gives the token_id of each of `spellings`, separated by one space each.

    Special tokens are words of the vocabulary only: as added tokens they would be searched inside tags. Since they
    contain a space, no text gives them; nor does any give a category's unknown token, for the same reason.
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
