"""Micro-batching: one thread answers all requests that wait at the same time.

The thread takes every waiting request whenever it is free, so no request waits for a batch to fill. One thread is
faster than one per request: each of those would wait for the interpreter's lock several times, and the event loop,
which reads requests and writes answers, would compete with all of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

MAX_BATCH: Final = 64
"""64 requests of 30,000 scores take 8 MB. Larger batches gain little on a CPU, and every request waits for the last."""

AskedT = TypeVar("AskedT")
ReadT = TypeVar("ReadT")
AnswerT = TypeVar("AnswerT")


class MicroBatcher(Generic[AskedT, ReadT, AnswerT]):
    """Calls `read` for each request, then `answer` for all that wait, in one thread.

    The thread runs from the first request until `close`.
    """

    def __init__(
        self,
        read: Callable[[AskedT], ReadT],
        answer: Callable[[Sequence[ReadT]], Sequence[AnswerT]],
        max_batch: int = MAX_BATCH,
    ) -> None:
        self._read = read
        self._answer = answer
        self._max_batch = max_batch
        self._waiting: SimpleQueue[tuple[AskedT, Future[AnswerT]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """Answers the waiting requests and ends the thread."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    async def __call__(self, asked: AskedT) -> AnswerT:
        """The answer to `asked`; to be awaited on one event loop.

        Raises what `read` raises for `asked`, or `answer` for its batch.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="batches")
            self._thread.start()
        future: Future[AnswerT] = Future()
        self._waiting.put((asked, future))
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        is_open = True
        while is_open:
            taken = [self._waiting.get()]
            try:
                while len(taken) < self._max_batch:
                    taken.append(self._waiting.get_nowait())
            except Empty:
                pass
            is_open = None not in taken
            self._settle([one for one in taken if one is not None and one[1].set_running_or_notify_cancel()])

    def _settle(self, waiting: Sequence[tuple[AskedT, Future[AnswerT]]]) -> None:
        read: list[ReadT] = []
        futures: list[Future[AnswerT]] = []
        for asked, future in waiting:
            try:
                read.append(self._read(asked))
                futures.append(future)
            except BaseException as error:  # noqa: BLE001  the future raises it again
                future.set_exception(error)
        if not read:
            return
        try:
            answers = self._answer(read)
            for future, answer in zip(futures, answers, strict=True):
                future.set_result(answer)
        except BaseException as error:  # noqa: BLE001  the future raises it again
            for future in futures:
                if not future.done():
                    future.set_exception(error)
