"""The text of an error, for one line of a message."""

from __future__ import annotations

from typing import Final

MAX_MESSAGE: Final = 400
"""Characters of another library's message that ours quote."""


def one_line(error: BaseException | str, max_length: int | None = None) -> str:
    """The whole message of `error` in one line, white space folded; the name of its type where it has no message.

    Args:
        error: an exception, or a text.
        max_length: characters to keep; None keeps all.
    """
    text = " ".join(str(error).split())
    return (text or (type(error).__name__ if isinstance(error, BaseException) else ""))[:max_length]


def first_line(error: BaseException | str, max_length: int | None = MAX_MESSAGE) -> str:
    """The first line of the message of `error` that is not blank; the name of its type where it has no message.

    Args:
        error: an exception, or a text.
        max_length: characters to keep; None keeps all.
    """
    lines = str(error).strip().splitlines()
    return one_line(lines[0] if lines else error, max_length)
