"""What somebody is typing begins the tag that they mean, whatever stands before it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.schema import Category
from booru_embed_core.tags.normalize import PREFIXES
from booru_embed_core.tags.prefix import TypedPrefix, read_prefix

NAMES = (
    "cat", "cat_ears", "witch_hat", "hakurei_reimu", "(o)_(o)", ">:(", ":d", ";)", "\\m/", "+_+", "-_-", "t-shirt",
    "tracer_(overwatch)", "re:zero", "steins;gate", "|_|", "copy:cat", "7:08", "solo",
)  # fmt: skip


def begins_a_tag(prefix: str) -> bool:
    return any(name.startswith(prefix) for name in NAMES)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        *((f"{signs}cat", "cat") for signs in ("(", "[", "{", "((", "{{[", ".5::", '"', "(\u201c", "hat, ", "{hat|")),
        *((f"{signs}Witch Ha", "witch_ha") for signs in ("", "(", "2$$", "{2$$", "0.3::", "[hat:", "\u300c")),
        ("witch-h", "witch_h"), ("witch_h", "witch_h"), ("WITCH H", "witch_h"), ("t shi", "t-shi"), ("t_shi", "t-shi"),
        ("\uff43\uff41\uff54\u3000\uff45", "cat_e"), ("\uff08cat", "cat"), ("solo\uff0ccat", "cat"),
        ("cat ", "cat_"), ("solo ", "solo"), ("  cat", "cat"),
        ("tracer \\(ov", "tracer_(ov"), ("(tracer (ov", "tracer_(ov"),
        ("(nobody", "nobody"), ("{nobo dy ", "nobo_dy"), ("", ""), ("((", "("), ("{{", ""), ("<", ""), ("cat,", ""),
    ],
)  # fmt: skip
def test_signs_before_a_tag_are_no_part_of_it(text: str, prefix: str) -> None:
    assert read_prefix(text, begins_a_tag) == TypedPrefix(prefix, None, is_excluded=False)


@pytest.mark.parametrize("name", NAMES)
def test_what_begins_a_tag_is_itself_from_its_first_letter_on(name: str) -> None:
    for length in range(1, len(name) + 1):
        assert read_prefix(name[:length], begins_a_tag).text == name[:length]
        assert read_prefix(f"(({name[:length]}", name[:length].__eq__).text == name[:length]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_category_restricts(prefix: str) -> None:
    category = list(Category)[PREFIXES[prefix]]
    for text in (f"{prefix}:haku", f"{prefix.upper()}: Haku", f"({prefix}:haku", f"1.1::{prefix}:haku"):
        assert read_prefix(text, begins_a_tag) == TypedPrefix("haku", category, is_excluded=False)
    assert read_prefix(f"-{prefix}:haku", begins_a_tag) == TypedPrefix("haku", category, is_excluded=True)
    assert read_prefix(f"{prefix}:", lambda _: False) == TypedPrefix("", category, is_excluded=False)
    assert read_prefix(f"{prefix}:xyz", begins_a_tag) == TypedPrefix("xyz", category, is_excluded=False)


def test_a_tag_that_begins_like_a_category_is_itself() -> None:
    assert read_prefix("copy:ca", begins_a_tag) == TypedPrefix("copy:ca", None, is_excluded=False)


@pytest.mark.parametrize("text", ["-so", "-(so", "(-so", "-1::so", "-.5::so", "- so", '-"So', "-xyz"])
def test_a_minus_excludes(text: str) -> None:
    read = read_prefix(text, begins_a_tag)
    assert read.is_excluded
    assert read.text in ("so", "xyz")


@given(st.text(st.sampled_from('()[]{}:;-+"|,\\ 1.2$<ca_') | st.characters(), max_size=12))
@settings(max_examples=100)
def test_no_text_is_an_error(text: str) -> None:
    read = read_prefix(text, begins_a_tag)
    assert read.text == read.text.casefold()
    assert not any(character.isspace() for character in read.text)


def test_signs_without_end_cost_no_more_than_their_length() -> None:
    assert read_prefix("(" * 100_000 + "cat", begins_a_tag).text == "cat"
    assert read_prefix("1.2::" * 50_000 + "cat", begins_a_tag).text == "cat"
