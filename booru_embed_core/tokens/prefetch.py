"""An iterator that works ahead in a thread, so that the next batch is ready when a step ends.

A thread, not a process: gathering a batch is one copy that releases the interpreter's lock. Sending a batch through a
pipe would cost more than gathering it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True)
class _End:
    """The last item in the queue; `error` ended the iterator, unless it is None."""

    error: BaseException | None = None


@contextmanager
def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[Iterator[T]]:
    """The items of `items` in their order, made in a thread that is at most `depth` of them ahead.

    An error of `items` is raised in place of its item. The thread ends with the ``with`` block.

    Raises:
        ValueError: `depth` is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth {depth}: must be 1 or more items ahead")
    ready: queue.Queue[T | _End] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: T | _End) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:  # noqa: BLE001  raised again in the reader's thread
            put(_End(error))
            return
        put(_End())

    def read() -> Iterator[T]:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        yield read()
    finally:
        stopped.set()
        thread.join()
