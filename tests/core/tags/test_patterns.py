"""Tags by names, aliases and patterns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.schema import Category
from booru_embed_core.tags.patterns import matching_tags, named_tags
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab

GENERAL = ("long_hair", "blue_hair", "hairband", "hair", "cat_ears", "*_*", "breasts", "large_breasts")
ARTISTS = ("hair_artist", "Ebifurya")
TAGS = (*GENERAL, *ARTISTS)
TOKENIZER = Tokenizer(
    Vocab(
        TAGS,
        np.array([0] * len(GENERAL) + [1] * len(ARTISTS), np.uint8),
        np.arange(len(TAGS), 0, -1, dtype=np.int64),
        aliases={Category.GENERAL: {"longhair": "long_hair", "nekomimi": "cat_ears"}},
    )
)


def tags_named(*names: str) -> tuple[set[str], tuple[str, ...]]:
    found = named_tags(TOKENIZER, names)
    assert found.tags.tolist() == sorted(set(found.tags.tolist()))
    return {TAGS[tag] for tag in found.tags.tolist()}, found.unknown


@pytest.mark.parametrize(
    ("names", "tags", "unknown"),
    [
        (["cat ears"], {"cat_ears"}, ()),
        (["(Cat Ears:1.3)", "nekomimi"], {"cat_ears"}, ()),
        (["*_hair"], {"long_hair", "blue_hair"}, ()),
        (["* hair"], {"long_hair", "blue_hair"}, ()),
        (["hair*"], {"hairband", "hair", "hair_artist"}, ()),
        (["artist:*"], {"hair_artist", "Ebifurya"}, ()),
        (["gen:hair*"], {"hairband", "hair"}, ()),
        (["EBI*", "ebifurya"], {"Ebifurya"}, ()),
        (["*breasts"], {"breasts", "large_breasts"}, ()),
        (["*r*e*b*"], {"large_breasts"}, ()),
        (["(*_hair:1.2)", "[*band]"], {"long_hair", "blue_hair", "hairband"}, ()),
        (["*_*"], {"*_*"}, ()),  # a tag of the vocabulary is itself
        (["*"], set(TAGS), ()),
        (["blorb", "*_wings", "hair"], {"hair"}, ("blorb", "*_wings")),
        (["cat_ears, *_hair, zzz"], {"cat_ears", "long_hair", "blue_hair"}, ("zzz",)),
        (["rating:e", "", "  ", "(hair:0)"], set(), ("rating:e", "(hair:0)")),
        ([], set(), ()),
    ],
)
def test_names_and_patterns(names: list[str], tags: set[str], unknown: tuple[str, ...]) -> None:
    assert tags_named(*names) == (tags, unknown)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pattern=st.text(alphabet="lonhair_c*", min_size=1, max_size=8))
def test_a_star_is_any_letters(pattern: str) -> None:
    def matches(pattern: str, tag: str) -> bool:
        if not pattern or not tag:
            return not pattern.replace("*", "") and not tag
        if pattern[0] == "*":
            return matches(pattern[1:], tag) or matches(pattern, tag[1:])
        return pattern[0] == tag[0] and matches(pattern[1:], tag[1:])

    found = {TAGS[tag] for tag in matching_tags(TOKENIZER, pattern)}
    assert found == {tag for tag in TAGS if matches(pattern, tag.casefold())}


def test_a_pattern_of_many_stars_ends() -> None:
    # A search that goes back would take longer than the universe.
    long = "a" * 200
    tokenizer = Tokenizer(Vocab((long,), np.zeros(1, np.uint8), np.ones(1, np.int64)))
    assert matching_tags(tokenizer, "*a" * 60 + "b*") == []
    assert matching_tags(tokenizer, "*a" * 60 + "*") == [0]
