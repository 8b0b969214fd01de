"""The page on captions says what the normaliser does: each row of its table is read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from booru_embed_core.schema import Category
from booru_embed_core.tags.normalize import PREFIXES
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab

PAGE = (Path(__file__).parents[2] / "docs/reference/captions.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(.*?)` \| `(.*?)` \| (.*) \|$", PAGE, re.MULTILINE)
TAGS = {
    "1girl": 0, "solo": 0, "cat_ears": 0, "long_hair": 0, ":3": 0, ">:(": 0, ";)": 0,
    "wlop": 1, "overwatch": 2, "re:zero_kara_hajimeru_isekai_seikatsu": 2, "tracer_(overwatch)": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    aliases = {Category.GENERAL: {"1girls": "1girl", "longhair": "long_hair"}}
    categories, counts = np.array(list(TAGS.values()), np.uint8), np.arange(len(TAGS), 0, -1, dtype=np.int64)
    return Tokenizer(Vocab(tuple(TAGS), categories, counts, aliases=aliases))


@pytest.mark.parametrize(("typed", "read", "notes"), ROWS)
def test_a_row_is_what_happens(tokenizer: Tokenizer, typed: str, read: str, notes: str) -> None:
    encoded = tokenizer.encode(typed)
    assert tokenizer.normalized(encoded) == read
    assert list(encoded.notes) == re.findall(r"`(.*?)`", notes)
    assert encoded.unknown == ()


def test_the_table_and_the_prefixes_are_there() -> None:
    assert len(ROWS) == 13
    for prefix in PREFIXES:
        assert f"`{prefix}:`" in PAGE
