"""Prefetching in a thread: the same items and errors in the same order, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.tokens.prefetch import prefetch


def names_of_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@given(items=st.lists(st.none() | st.integers()), depth=st.integers(1, 5))
@settings(deadline=None)
def test_items_come_in_their_order(items: list[int | None], depth: int) -> None:
    with prefetch(items, depth) as read:
        assert list(read) == items
    assert "prefetch" not in names_of_threads()


def test_an_error_is_raised_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no second item")

    with prefetch(items()) as read:
        assert next(read) == 1
        with pytest.raises(LookupError, match="no second item"):
            next(read)


@pytest.mark.parametrize("depth", [1, 3])
def test_it_works_ahead_but_no_further_than_asked(depth: int) -> None:
    made: list[int] = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if len(made) == depth + 1:  # `depth` wait in the queue and this one for its place
                enough.set()
            yield number

    with prefetch(items(), depth) as read:
        assert enough.wait(60)
        assert len(made) == depth + 1
        assert next(read) == 0


def test_leaving_early_ends_the_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    with prefetch(endless()) as read:
        assert next(read) == 1
    assert "prefetch" not in names_of_threads()


def test_no_item_ahead_is_no_prefetch() -> None:
    with pytest.raises(ValueError, match="depth 0: give a depth of 1 or more"), prefetch([1], 0):
        pass
