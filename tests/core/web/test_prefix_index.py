"""Tags by their beginning, by the beginning of a word, and with typos, against the obvious loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import OSA

from booru_embed_core.schema import Category
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.web.prefix_index import Matches, PrefixIndex

TAGS = (
    *("witch_hat", "witch", "hat", "hat_ribbon", "cat_ears", "ears", "hatsune_miku", "d.va_(overwatch)", "overwatch"),
    *("re:zero_kara", "k-on!", "don't_touch", "Mixed_Case", ">_<", ":d", "long_hair", "very_long_hair", "fate/zero"),
    *("solo", "sword", "a" * 70, "über_maid", "日本_語"),
)
ALIASES = {"longhair": "long_hair", "straw_hatted": "hat", "swrod_old": "sword"}
INDEX = PrefixIndex(
    Tokenizer(
        Vocab(
            TAGS,
            np.zeros(len(TAGS), np.uint8),
            np.arange(len(TAGS), 0, -1, dtype=np.int64),
            aliases={Category.GENERAL: ALIASES},
        )
    )
)
NAMES = [(tag.casefold(), tag) for tag in TAGS] + list(ALIASES.items())


def tags_of(matches: Matches) -> list[str]:
    assert matches.tags.tolist() == sorted(set(matches.tags.tolist()))
    return sorted(TAGS[tag] for tag in matches.tags.tolist())


@pytest.mark.parametrize(
    ("typed", "tags"),
    [
        ("hat", ["hat", "hat_ribbon", "hatsune_miku"]),
        ("long", ["long_hair"]),
        ("straw", ["hat"]),
        ("mixed", ["Mixed_Case"]),
        (">", [">_<"]),
        ("zzz", []),
    ],
)
def test_what_begins_so(typed: str, tags: list[str]) -> None:
    found = INDEX.starting_with(typed)
    assert tags_of(found) == tags
    assert INDEX.begins(typed) == bool(tags)
    assert not found.edits.any()


@pytest.mark.parametrize(
    ("typed", "tags"),
    [
        ("hat", ["hat", "witch_hat"]),  # the first by its alias straw_hatted
        ("ears", ["cat_ears"]),
        ("miku", ["hatsune_miku"]),
        ("overw", ["d.va_(overwatch)"]),
        ("va", ["d.va_(overwatch)"]),
        ("zero", ["fate/zero", "re:zero_kara"]),
        ("kara", ["re:zero_kara"]),
        ("on", ["k-on!"]),
        ("t_touch", ["don't_touch"]),
        ("long_h", ["very_long_hair"]),
        ("case", ["Mixed_Case"]),
        ("maid", ["über_maid"]),
        ("語", ["日本_語"]),
        ("at", []),  # no word begins so
    ],
)
def test_a_later_word_begins_so(typed: str, tags: list[str]) -> None:
    assert tags_of(INDEX.with_word(typed)) == tags


@pytest.mark.parametrize(
    ("typed", "tags"),
    [
        ("wich_hat", ["witch_hat"]),
        ("iwtch_hat", ["witch_hat"]),
        ("witch_hta", ["witch_hat"]),
        ("mkiu", ["hatsune_miku"]),  # the whole of a later word
        ("overwatsch", ["d.va_(overwatch)", "overwatch"]),
        ("loghair", ["long_hair"]),  # of the alias longhair
        ("wich_h", ["witch_hat"]),  # a beginning, since none is so
        ("hatsune_mk", ["hatsune_miku"]),
        ("hta", []),  # too short
        ("swordd", ["sword"]),
        ("sowdr", []),  # two typos in five letters
        ("verry_logn_hair", ["long_hair", "very_long_hair"][1:]),
        ("sole", ["solo"]),
        ("hat_", ["hat", "hat_ribbon"][:1]),  # one begins so: only whole tags
        ("日本語", []),
        ("a" * 69, ["a" * 70]),
        ("x" * 200, []),
    ],
)
def test_typos(typed: str, tags: list[str]) -> None:
    found = INDEX.corrected(typed)
    if typed == "hat_":  # witch_hat ends like it
        assert tags_of(found) == ["hat", "witch_hat"]
        return
    assert tags_of(found) == tags
    assert set(found.edits.tolist()) <= {0, 1, 2}


def test_a_tag_matches_by_its_own_name_before_an_alias() -> None:
    found = INDEX.starting_with("long")
    assert [INDEX.alias(row) for row in found.rows.tolist()] == [None]
    found = INDEX.starting_with("longha")
    assert [INDEX.alias(row) for row in found.rows.tolist()] == ["longhair"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_whole_names_with_typos_are_those_of_the_loop(data: st.DataObject) -> None:
    name, _ = data.draw(st.sampled_from(NAMES))
    typed = list(name)
    for _ in range(data.draw(st.integers(0, 2))):
        place, letter = data.draw(st.integers(0, len(typed))), data.draw(st.sampled_from("aehitz_:"))
        typed[place : place + data.draw(st.integers(0, 1))] = data.draw(st.sampled_from([[], [letter]]))
    text = "".join(typed)
    edits = (len(text) >= 4) + (len(text) >= 8)
    near = {tag for name, tag in NAMES if edits and OSA.distance(text, name) <= edits}
    assert near <= set(tags_of(INDEX.corrected(text)))
