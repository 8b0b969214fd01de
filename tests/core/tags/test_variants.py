"""Alternatives that share a word."""

from __future__ import annotations

import pytest

from booru_embed_core.tags.variants import completed

NAMES = {
    "blue eyes",
    "red eyes",
    "blue_eyes",
    "red_eyes",
    "hat",
    "bow",
    "cat",
    "cat ears",
    "fox",
    "fox ears",
    "long hair",
}
NAMES |= {"very long hair", "[|]", "twintails", "twinbows"}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("hat, {blue|red} eyes", "hat, {blue eyes|red eyes}"),
        ("hat [blue|red] eyes bow", "hat [blue eyes|red eyes] bow"),
        ("[blue:red:0.5] eyes", "[blue eyes:red eyes:0.5]"),
        ("{0.5::blue|.5::red}_eyes", "{0.5::blue_eyes|.5::red_eyes}"),
        ("twin{tails|bows}", "{twintails|twinbows}"),
        ("{|very} long hair", "{long hair|very long hair}"),
        ("{2$$cat|fox} ears", "{2$$cat ears|fox ears}"),  # ears is none
        ("(1.2::{blue|red} eyes::)", "(1.2::{blue eyes|red eyes}::)"),
        ("({blue|red} eyes:1.2)", "({blue eyes|red eyes}:1.2)"),
        ("{cat|fox} hat", "{cat|fox} hat"),
        ("{blue eyes|red eyes} hat", "{blue eyes|red eyes} hat"),
        ("{blue|red}, eyes", "{blue|red}, eyes"),
        ("[|] eyes", "[|] eyes"),
        ("{a|b} c [d:e:2] f", "{a|b} c [d:e:2] f"),
    ],
)
def test_words_beside_alternatives_are_written_into_each_where_that_makes_tags(text: str, read: str) -> None:
    notes: list[str] = []
    assert completed(text, lambda name: name.strip() in NAMES, notes) == read
    assert bool(notes) == (text != read)
