"""What is awaited while a batch is answered is answered together, each with its own answer or its own error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from booru_embed_core.web.batching import MicroBatcher

BUSY = "busy"
WAIT_SECONDS = 30


class Doubled:
    """Doubles numbers, and keeps how many at once; what it is told to be busy with first lasts until `may_end`."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.started, self.may_end = threading.Event(), threading.Event()

    def read(self, asked: str) -> int:
        if asked == BUSY:
            return 0
        return int(asked)

    def answer(self, numbers: Sequence[int]) -> list[int]:
        self.sizes.append(len(numbers))
        if numbers[0] == 0:
            self.started.set()
            assert self.may_end.wait(WAIT_SECONDS)
        if 666 in numbers:
            raise RuntimeError("666 cannot be doubled")
        return [2 * number for number in numbers]


async def ask_while_busy(doubled: Doubled, asked: Sequence[str], max_batch: int = 64) -> list[int | BaseException]:
    """The answers to `asked`, all of which is awaited while something else is answered."""
    batches = MicroBatcher(doubled.read, doubled.answer, max_batch)
    first = asyncio.ensure_future(batches(BUSY))
    await asyncio.to_thread(doubled.started.wait, WAIT_SECONDS)
    others = [asyncio.ensure_future(batches(one)) for one in asked]
    await asyncio.sleep(0)  # each of them has now been handed over
    doubled.may_end.set()
    answers = await asyncio.gather(*others, return_exceptions=True)
    assert await first == 0
    batches.close()
    assert "batches" not in {thread.name for thread in threading.enumerate()}
    return answers


def test_what_is_awaited_meanwhile_is_answered_together() -> None:
    doubled = Doubled()
    assert asyncio.run(ask_while_busy(doubled, ["1", "2", "3"])) == [2, 4, 6]
    assert doubled.sizes == [1, 3]


def test_never_more_at_once_than_may_be() -> None:
    doubled = Doubled()
    assert asyncio.run(ask_while_busy(doubled, ["1", "2", "3", "4", "5"], max_batch=2)) == [2, 4, 6, 8, 10]
    assert doubled.sizes == [1, 2, 2, 1]


def test_what_cannot_be_read_fails_alone() -> None:
    doubled = Doubled()
    one, wrong, three = asyncio.run(ask_while_busy(doubled, ["1", "two", "3"]))
    assert (one, three) == (2, 6)
    assert isinstance(wrong, ValueError)
    assert doubled.sizes == [1, 2]


def test_an_error_of_the_answer_reaches_all_of_its_batch_and_the_thread_goes_on() -> None:
    answers = asyncio.run(ask_while_busy(Doubled(), ["1", "666", "3"], max_batch=2))
    assert [str(answer) for answer in answers[:2]] == ["666 cannot be doubled"] * 2
    assert answers[2] == 6


def test_nothing_is_computed_for_who_went_away() -> None:
    doubled = Doubled()

    async def ask() -> None:
        batches = MicroBatcher(doubled.read, doubled.answer)
        first = asyncio.ensure_future(batches(BUSY))
        await asyncio.to_thread(doubled.started.wait, WAIT_SECONDS)
        gone, stays = asyncio.ensure_future(batches("1")), asyncio.ensure_future(batches("2"))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        doubled.may_end.set()
        assert (await first, await stays) == (0, 4)
        batches.close()

    asyncio.run(ask())
    assert doubled.sizes == [1, 1]


def test_it_may_be_closed_before_anything_was_asked() -> None:
    MicroBatcher(int, list).close()
