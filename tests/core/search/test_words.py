"""Words, signs and parentheses of queries."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.search.parser import parse_query
from booru_embed_core.search.words import MAX_DEPTH, Kind, read_words
from tests.core.search.query_helpers import TAGS, TOKENIZER


def is_tag(word: str) -> bool:
    return TOKENIZER.tag_named(word) is not None


def kinds(text: str) -> str:
    """Words as they are, all else by the name of its kind."""
    tokens = read_words(text, is_tag).tokens
    return " ".join(text[one.start : one.end] if one.kind is Kind.WORD else one.kind.name for one in tokens[:-1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(cat ~ hat) -solo", "OPEN cat TILDE hat CLOSE NOT solo"),
        ("-(cat hat),~solo", "NOT OPEN cat hat CLOSE SEPARATOR OPTIONAL solo"),
        ("cat - hat + solo", "cat MINUS hat PLUS solo"),
        ("(cat hat) -solo", "TEXT cat hat TEXT NOT solo"),
        ("(long hair:1.2), -solo", "TEXT long hair:1.2 TEXT SEPARATOR NOT solo"),
        ("-miku_(fate) (miku_(fate) or hat)", "NOT miku_(fate) OPEN miku_(fate) OR hat CLOSE"),
        ("foo_(bar) -(foo_(bar))", "foo_(bar) NOT OPEN foo_(bar) CLOSE"),
        ("((cat)++ (hat)1.2) -solo", "TEXT TEXT cat TEXT TEXT hat TEXT TEXT NOT solo"),
        ("(cat hat) or (1girl)", "OPEN cat hat CLOSE OR OPEN 1girl CLOSE"),
        ("miku (fate) or (fate)", "miku TEXT fate TEXT OR OPEN fate CLOSE"),
        ("-1::hat:: -solo", "-1::hat:: NOT solo"),
        (":-) -solo", ":- TEXT NOT solo"),
        ("rating:g,s,-hat", "rating:g,s,-hat"),
        ("rating: g,", "rating: g SEPARATOR"),
        ("cat;-hat", "cat SEPARATOR NOT hat"),
        ("(;)) ;)", "OPEN ;) CLOSE ;)"),
        ("black and white and hat", "black and white AND hat"),
    ],
)
def test_a_query_is_cut(text: str, expected: str) -> None:
    assert kinds(text) == expected


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from(TAGS), min_size=1, max_size=6))
def test_tags_alone_are_words_without_grammar(words: list[str]) -> None:
    text = " ".join(words)
    read = read_words(text, is_tag)
    assert [text[one.start : one.end] for one in read.tokens[:-1]] == words
    assert not read.has_grammar


@settings(max_examples=60, deadline=None)
@given(text=st.text("()-~+,; ahot*:\n\\", max_size=30))
def test_any_text_is_cut_in_order(text: str) -> None:
    try:
        tokens = read_words(text, is_tag).tokens
    except ValueError:
        return  # what is refused, `test_parser` reads
    ends = [0, *(one.end for one in tokens)]
    for end, one in zip(ends, tokens, strict=False):
        assert one.start >= end
        assert not text[end : one.start].strip()


def test_depth_is_limited() -> None:
    assert read_words("( " * MAX_DEPTH + "cat ~ hat" + " )" * MAX_DEPTH, is_tag)
    with pytest.raises(ValueError, match="more than 50 parentheses within each other"):
        read_words("( " * (MAX_DEPTH + 1) + "cat ~ hat" + " )" * (MAX_DEPTH + 1), is_tag)
    with pytest.raises(ValueError, match="more than 50 signs before one word"):
        read_words("-" * (MAX_DEPTH + 1) + "cat", is_tag)


def cpu_seconds(text: str) -> float:
    """The least that reading `text` took of two times, as a query and as a caption."""
    took = []
    for _ in range(2):
        start = time.process_time()
        TOKENIZER.encode(text)
        with contextlib.suppress(ValueError):
            parse_query(text, TOKENIZER)
        took.append(time.process_time() - start)
    return min(took)


@pytest.mark.parametrize(
    "unit", [*' (|:*["1,\\-', ")", "::", "( ", " or ", "AND ", "- ", "1.2::", "hat ", "(hat ~ ", "\n", "'", "{", "a:"]
)
def test_reading_takes_time_linear_in_any_text(unit: str) -> None:
    """Four times as many letters take four times as long; a square would be sixteen times."""
    short, long = ("b" + unit * (letters // len(unit)) + "b" for letters in (600, 2_400))
    assert cpu_seconds(long) < 9 * cpu_seconds(short) + 0.01
