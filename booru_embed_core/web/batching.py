"""What many requests await at once, answered together by one thread.

The thread takes all that waits whenever it becomes free: nobody waits for company. It is one thread, and not one a
request, because each of these would wait for the interpreter's lock several times; the event loop, which reads requests
and writes answers, competes with a single one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

MAX_TOGETHER: Final = 64
"""Of 30,000 scores each: 8 MB. Larger batches gain little on a CPU, and the first of them would wait for the last."""

AskedT = TypeVar("AskedT")
ReadT = TypeVar("ReadT")
AnswerT = TypeVar("AnswerT")


class MicroBatcher(Generic[AskedT, ReadT, AnswerT]):
    """`read` of each, then `answer` of all that wait, in a thread that lives from the first one until `close`."""

    def __init__(
        self,
        read: Callable[[AskedT], ReadT],
        answer: Callable[[Sequence[ReadT]], Sequence[AnswerT]],
        max_together: int = MAX_TOGETHER,
    ) -> None:
        self._read = read
        self._answer = answer
        self._max_together = max_together
        self._waiting: SimpleQueue[tuple[AskedT, Future[AnswerT]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """Ends the thread; returns when what waits is answered."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    async def __call__(self, asked: AskedT) -> AnswerT:
        """The answer; whatever `read` raises for it, or `answer` for what was answered together with it, is raised.

        To be awaited on one event loop.
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
                while len(taken) < self._max_together:
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
            except BaseException as error:  # noqa: BLE001  raised again where it is awaited
                future.set_exception(error)
        if not read:
            return
        try:
            answers = self._answer(read)
            for future, answer in zip(futures, answers, strict=True):
                future.set_result(answer)
        except BaseException as error:  # noqa: BLE001  raised again where it is awaited
            for future in futures:
                if not future.done():
                    future.set_exception(error)
