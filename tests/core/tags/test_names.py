"""What people call a tag."""

from __future__ import annotations

import pytest

from booru_embed_core.schema import Category
from booru_embed_core.tags.names import Found, TagNames
from booru_embed_core.tags.vocab import Vocab
from tests.core.tags.caption_helpers import tokenizer_of

VOCAB: Vocab = tokenizer_of(
    {
        Category.GENERAL: ("long_hair", "t-shirt", "x-ray", "x_ray", "-_-", "Kantai", "a_-_b"),
        Category.ARTIST: ("wlop",),
        Category.CHARACTER: ("saber_(fate)_(cosplay)",),
    },
    general={"lange-haare": "long_hair", "tee": "t-shirt"},
).vocab
NAMES = TagNames(VOCAB)


@pytest.mark.parametrize(
    ("text", "tag", "note"),
    [
        ("long_hair", "long_hair", None),
        ("Long Hair", "long_hair", None),
        ("long-hair", "long_hair", "long-hair: read as long_hair"),
        ("t shirt", "t-shirt", "t_shirt: read as t-shirt"),
        ("x-ray", "x-ray", None),
        ("x ray", "x_ray", None),
        ("-_-", "-_-", None),
        ("kantai", "Kantai", None),
        ("tee", "t-shirt", "tee: another name of t-shirt"),
        ("lange haare", "long_hair", "lange_haare: read as long_hair"),
        ("a-b", "a_-_b", "a-b: read as a_-_b"),
        ("artist:wlop", "wlop", None),
        ("artist: long-hair", "long_hair", "artist: long-hair: taken for long_hair, which is general"),
        ("char:saber-(fate)-(cosplay)", "saber_(fate)_(cosplay)",
         "char:saber-(fate)-(cosplay): read as saber_(fate)_(cosplay)"),
    ],
)  # fmt: skip
def test_a_name_is_found(text: str, tag: str, note: str | None) -> None:
    found = NAMES.find(text)
    assert found is not None
    assert found.token_id is not None
    assert (NAMES.tag(found.token_id), found.rating) == (tag, None)
    assert found.note == note


def test_what_is_no_name() -> None:
    assert NAMES.find("rating: Safe") == Found(None, "g")
    for text in ("", "--", "_", "(long_hair)", "long_hair-", "hair", "rating:x", "artist:"):
        assert NAMES.find(text) is None, text


def test_the_words_of_the_longest_name_bound_a_run() -> None:
    assert NAMES.longest_run("Long") == 2
    assert NAMES.longest_run("saber") == 3
    assert NAMES.longest_run("char:saber") == 3
    assert NAMES.longest_run("char:") > 3
    assert NAMES.longest_run("a") == 4
    assert NAMES.longest_run("hair") == 1
