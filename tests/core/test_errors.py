"""An error's text in one line."""

from __future__ import annotations

import pytest

from booru_embed_core.errors import MAX_MESSAGE, first_line, one_line


@pytest.mark.parametrize(
    ("error", "whole", "first"),
    [
        (ValueError("a  b\n\tc"), "a b c", "a b"),
        (ValueError("\n \n a \n b"), "a b", "a"),
        (ValueError("  "), "ValueError", "ValueError"),
        (KeyError("genre"), "'genre'", "'genre'"),
        ("text\r\nmore", "text more", "text"),
        ("", "", ""),
    ],
)
def test_a_message_becomes_one_line(error: BaseException | str, whole: str, first: str) -> None:
    assert one_line(error) == whole
    assert first_line(error) == first


def test_messages_are_cut_where_a_length_is_given() -> None:
    error = ValueError("x" * 1000)
    assert one_line(error) == "x" * 1000
    assert one_line(error, 3) == "xxx"
    assert first_line(error) == "x" * MAX_MESSAGE
    assert first_line(error, None) == "x" * 1000
