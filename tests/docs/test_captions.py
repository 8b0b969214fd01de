"""The page on captions says what the reader does: each row of its tables is read."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest

from booru_embed_core.schema import Category
from booru_embed_core.tags.normalize import PREFIXES
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab

PAGE = (Path(__file__).parents[2] / "docs/reference/captions.md").read_text(encoding="utf-8")
TAGS = {
    "1girl": 0, "solo": 0, "cat_ears": 0, "cat": 0, "long_hair": 0, "blonde_hair": 0, "blue_eyes": 0, "red_eyes": 0,
    "hat": 0, "smile": 0, ":3": 0, ">:(": 0, ";)": 0, "\\m/": 0, "wlop": 1, "overwatch": 2,
    "re:zero_kara_hajimeru_isekai_seikatsu": 2, "steins;gate": 2, "tracer_(overwatch)": 3,
}  # fmt: skip


def codes(cell: str) -> list[str]:
    """The texts of a table's cell; those with bars are HTML, since a bar would end the cell."""
    found = re.findall(r"`(.*?)`(?:;|$)|<code>(.*?)</code>", cell)
    return [plain or html.unescape(escaped) for plain, escaped in found]


def rows() -> list[tuple[str, str, list[str]]]:
    """What is typed, what it is read as, and the notes."""
    tables = re.findall(r"^\| typed \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    cells = [line.strip("| ").split(" | ") for table in tables for line in table.splitlines()]
    return [(codes(typed)[0].replace("⏎", "\n"), codes(read)[0], codes(notes)) for typed, read, notes in cells]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    aliases = {Category.GENERAL: {"1girls": "1girl", "longhair": "long_hair"}}
    categories, counts = np.array(list(TAGS.values()), np.uint8), np.arange(len(TAGS), 0, -1, dtype=np.int64)
    return Tokenizer(Vocab(tuple(TAGS), categories, counts, aliases=aliases))


@pytest.mark.parametrize(("typed", "read", "notes"), rows())
def test_a_row_is_what_happens(tokenizer: Tokenizer, typed: str, read: str, notes: list[str]) -> None:
    encoded = tokenizer.encode(typed)
    weights = encoded.weights or (1,) * len(encoded.token_ids)
    tags = [tag for _, tag in tokenizer.decode(encoded.token_ids)]
    weighted = [tag if weight == 1 else f"{tag}={weight:g}" for tag, weight in zip(tags, weights, strict=True)]
    assert " ".join(weighted) == read
    assert list(encoded.notes) == notes
    assert encoded.unknown == ()


def test_the_tables_and_the_prefixes_are_there() -> None:
    assert len(rows()) == 35
    for prefix in PREFIXES:
        assert f"`{prefix}:`" in PAGE
