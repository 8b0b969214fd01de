"""Prompts in the dialects of other programs, and back through the caption reader."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.tags.prompts import DIALECTS, as_prompt
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab

TAGS = (
    *("1girl", "long_hair", "cat_ears", "school_uniform", "school", "uniform", "red_bow", "bow", "solo", "+_+"),
    *("tracer_(overwatch)", ">_<", "^_^", ":d", ":3", ">:(", "\\m/", "\\(^o^)/", "k-on!", "re:zero", "o_o", ";)"),
    *("fate/grand_order", "a,b_c", "what,_me?", "don't_touch", "mole__", "_leading", "two__under", "c.c.", "{}_oops"),
    *("[]_brackets", "1.5_(number)", 'don\'t_say_"lazy"', "under_(a)_(b)", "@_@", "6+girls", "no-kan", "x_x", "3:00"),
)
TOKENIZER = Tokenizer(Vocab(TAGS, np.zeros(len(TAGS), np.uint8), np.arange(len(TAGS), 0, -1, dtype=np.int64)))


def read_back(text: str) -> list[str]:
    encoded = TOKENIZER.encode(text)
    assert encoded.unknown == (), (text, encoded)
    return [tag for _, tag in TOKENIZER.decode(encoded.token_ids)]


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("a1111", r"1girl, cat ears, tracer \(overwatch\), >_<, \[\] brackets"),
        ("comfyui", r"1girl, cat ears, tracer \(overwatch\), >_<, [] brackets"),
        ("novelai", "1girl, cat ears, tracer (overwatch), >_<, [] brackets"),
        ("danbooru", "1girl cat_ears tracer_(overwatch) >_< []_brackets"),
    ],
)
def test_each_program_gets_its_spelling(dialect: str, expected: str) -> None:
    assert as_prompt(["1girl", "cat_ears", "tracer_(overwatch)", ">_<", "[]_brackets"], dialect) == expected


def test_weights_are_written_where_a_program_knows_them() -> None:
    tags, weights = ["1girl", "cat_ears", "solo"], [1.0, 1.25, 0.5]
    assert as_prompt(tags, "a1111", weights) == "1girl, (cat ears:1.25), (solo:0.5)"
    assert as_prompt(tags, "novelai", weights) == "1girl, 1.25::cat ears::, 0.5::solo::"
    assert as_prompt(tags, "danbooru", weights) == "1girl cat_ears solo"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_alone_reads_as_itself(tag: str, dialect: str) -> None:
    assert read_back(as_prompt([tag], dialect)) == [tag]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(tags=st.lists(st.sampled_from(TAGS), unique=True, max_size=8), dialect=st.sampled_from(DIALECTS))
def test_a_prompt_reads_as_its_tags(tags: list[str], dialect: str) -> None:
    assert read_back(as_prompt(tags, dialect)) == tags


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    tags=st.lists(st.sampled_from(TAGS), unique=True, min_size=2, max_size=6),
    dialect=st.sampled_from(["a1111", "comfyui", "novelai"]),
    weight=st.sampled_from([0.5, 0.85, 1.1, 1.25, 2.0]),
)
def test_weights_read_as_themselves(tags: list[str], dialect: str, weight: float) -> None:
    plain = [tag for tag in tags if "," not in tag]
    weights = [weight if place % 2 else 1.0 for place in range(len(plain))]
    encoded = TOKENIZER.encode(as_prompt(plain, dialect, weights))
    assert [tag for _, tag in TOKENIZER.decode(encoded.token_ids)] == plain
    assert list(encoded.weights or [1.0] * len(plain)) == pytest.approx(weights)


def test_no_such_dialect() -> None:
    with pytest.raises(ValueError, match="dialect 'midjourney' is not one of a1111, comfyui, novelai, danbooru"):
        as_prompt(["solo"], "midjourney")
