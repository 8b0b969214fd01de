"""An iterator that prefetches in a thread, so that the next batch is ready when a step ends.

A thread, not a process: gathering a batch is one copy that releases the GIL. Sending a batch through a pipe would cost
more than gathering it.
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
    """The last item in the queue; `error` is the exception that ended the iterator, or None."""

    error: BaseException | None = None


@contextmanager
def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[Iterator[T]]:
    """An iterator over `items` in order, which a thread computes at most `depth` items ahead.

    An error in `items` is raised where its item would come. The thread ends with the ``with`` block.

    Raises:
        ValueError: `depth` is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth {depth}: give a depth of 1 or more")
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
