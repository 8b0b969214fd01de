"""What messages say of unknown tags."""

from __future__ import annotations

from booru_embed_core.search.unknown import close_tags, unknown_message
from tests.core.search.query_helpers import TOKENIZER


def test_close_names_are_proposed() -> None:
    assert close_tags(TOKENIZER, "cat_eras") == ["cat_ears"]
    assert close_tags(TOKENIZER, "LONG_HIAR") == ["long_hair"]
    assert close_tags(TOKENIZER, "zebra") == []
    assert close_tags(TOKENIZER, "x" * 10_000) == []


def test_a_message_is_short() -> None:
    message = unknown_message(TOKENIZER, "'x'", [f"zebra{i}" for i in range(5000)], "left out")
    assert message.startswith("'x': not in the vocabulary: zebra0, zebra1,")
    assert "zebra9 and 4990 more; left out. `booru-embed inspect vocab` lists" in message
    assert len(unknown_message(TOKENIZER, "'x'", ["y" * 5000], "left out")) < 300
    assert unknown_message(TOKENIZER, "'x'", ["hatt"], "left out").endswith("left out. Did you mean hat?")
