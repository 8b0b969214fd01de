"""Stopping the training process: signals, a lost parent, and a step that does not end.

Standard library only: ``worker`` imports this at module level.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final, Self

GRACE_SECONDS: Final = 3.0
"""How long a step or a validation may still run after a stop."""
_POLL_SECONDS: Final = 0.1


class StopRequest:
    """Whether training should stop: after SIGINT, SIGTERM or SIGHUP, or when the parent process is gone.

    The signals are caught even if the parent ignores them, which a shell's background job inherits. SIGHUP stays
    ignored: ``nohup`` asks for that.
    """

    def __init__(self, parent: int | None) -> None:
        self._parent = parent
        # A handler in Python would wait until torch returns from a long product; the byte in this pipe does not.
        self._signals, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        for number in (signal.SIGINT, signal.SIGTERM, *([] if is_nohup else [signal.SIGHUP])):
            signal.signal(number, lambda *_: None)

    def __call__(self) -> bool:
        """Whether to stop now; callable from any thread."""
        # An orphan would train for hours and keep the next run of the same job from starting.
        is_orphan = self._parent is not None and os.getppid() != self._parent
        return is_orphan or bool(select.select([self._signals], [], [], 0)[0])


class ShutdownWatchdog:
    """Ends this process if training continues for `grace_seconds` after a stop; a context around the training.

    Training looks for a stop after each step, but a step or a validation may take minutes. The watchdog's thread then
    saves the state before that step and ends the process.

    Args:
        stop: whether training should stop.
        say: called with a message before the process ends with the exit code 1.
        grace_seconds: counted from the stop.
    """

    def __init__(
        self, stop: Callable[[], bool], say: Callable[[str], object], grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._stop = stop
        self._say = say
        self._grace_seconds = grace_seconds
        self._save: Callable[[], str | None] = lambda: "stopped before the first step"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="shutdown-watchdog", daemon=True)

    def offer_save(self, save: Callable[[], str | None]) -> None:
        """Registers the function that saves the last state; it returns a message, or None if training is over."""
        self._save = save

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()  # it may be saving

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            if not self._stop():
                continue
            if not self._ended.wait(self._grace_seconds) and (line := self._save()) is not None:
                self._say(line)
                sys.stderr.flush()
                os._exit(1)
            return
