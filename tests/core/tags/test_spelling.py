"""One spelling for each token."""

from __future__ import annotations

import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.schema import NUM_CATEGORIES, SPECIAL_TOKENS
from booru_embed_core.tags.spelling import tokenizers_json, unique_spellings
from tests.core.export_helpers import ANY_TAG

NUM_SPECIAL = len(SPECIAL_TOKENS)


def test_the_most_used_of_one_name_stays_bare_then_the_first() -> None:
    spellings = unique_spellings(["fate", "cat", "fate", "cat", "fate"], [0, 0, 1, 2, 3], [5, 7, 9, 7, 1])
    assert list(spellings) == ["general:fate", "cat", "fate", "copyright:cat", "character:fate"]
    assert list(spellings.values()) == list(range(NUM_SPECIAL, NUM_SPECIAL + 5))


def test_a_tag_that_looks_like_a_spelling_keeps_its_name() -> None:
    spellings = unique_spellings(["a", "artist:a", "a"], [0, 0, 1], [9, 8, 7])
    assert list(spellings) == ["a", "artist:a", "artist:artist:a"]


@given(
    tags=st.lists(
        st.tuples(st.integers(0, NUM_CATEGORIES - 1), ANY_TAG | st.sampled_from(["a", "artist:a", "meta:artist:a"])),
        unique=True,
        max_size=12,
    ),
    data=st.data(),
)
def test_the_tokenizers_library_gives_every_spelling_its_id(tags: list[tuple[int, str]], data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 3), min_size=len(tags), max_size=len(tags)))
    spellings = unique_spellings([tag for _, tag in tags], [category for category, _ in tags], counts)
    assert list(spellings.values()) == list(range(NUM_SPECIAL, NUM_SPECIAL + len(tags)))
    library = tokenizers.Tokenizer.from_str(tokenizers_json(spellings))
    assert library.get_vocab_size() == NUM_SPECIAL + len(tags)
    assert library.encode(" ".join(spellings)).ids == list(spellings.values())
    assert library.encode("  ".join(["", *spellings, ""])).ids == list(spellings.values())


def test_no_text_gives_a_special_token_but_the_unknown() -> None:
    library = tokenizers.Tokenizer.from_str(tokenizers_json({"pad": NUM_SPECIAL}))
    unknown = SPECIAL_TOKENS.index("unknown tag")
    assert library.encode(" ".join(SPECIAL_TOKENS)).ids.count(NUM_SPECIAL) == 1
    assert set(library.encode(" ".join(SPECIAL_TOKENS)).ids) == {NUM_SPECIAL, unknown}
