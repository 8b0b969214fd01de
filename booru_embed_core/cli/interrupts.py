"""Ctrl-C, SIGTERM and SIGHUP: a command ends within seconds, in one line, and leaves nothing but what it resumes from.

Python runs a signal's handler only between two of its own steps. A thread ends the process where a call of a library
takes longer than that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self

from booru_embed_core.cli.plugins import PluggableGroup
from booru_embed_core.cli.streams import print_message
from booru_embed_core.filesystem import remove_unfinished

if TYPE_CHECKING:
    import click

GRACE_SECONDS: Final = 2.0
"""How long a call of a library may still run after a signal."""
_NAMES: Final = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_END: Final = b"\0"


class Stopped(Exception):  # noqa: N818  it is no error
    """A signal, or a `KeyboardInterrupt`, has ended the command; the message says what is kept."""


class InterruptibleGroup(PluggableGroup):
    """A group of commands that end by `Stopped`. The context's object is the `StopSignals` of the process, or None."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            if sys.platform == "win32" and ctx.obj is not None:
                ctx.obj.number = signal.SIGINT
            raise Stopped(str(error)) from None
        except Exception as error:
            if ctx.obj is None or ctx.obj.number is None:
                raise
            raise Stopped from error


class StopSignals:
    """Turns the first signal into a `KeyboardInterrupt`, and ends a process that does not end by that; a context.

    Further signals are ignored, so that nothing interrupts the removal of unfinished files. Windows keeps Python's own
    handling of Ctrl-C: there a call of a library runs to its end.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that has come."""
        self._ended = threading.Event()
        self._before: dict[int, Any] = {}
        self._reading = self._writing = self._fd_before = -1
        self._thread = threading.Thread(target=self._watch, name="stop-signals", daemon=True)

    @property
    def code(self) -> int:
        """The exit code of a command that a signal has ended."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def line(self) -> str:
        """What has ended the command."""
        return f"stopped by {_NAMES.get(signal.Signals(self.number or signal.SIGINT), 'the end of its terminal')}"

    def __enter__(self) -> Self:
        if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
            return self
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` and a shell's background jobs want it
                self._before[number] = signal.signal(number, self._handle)
        self._fd_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        self._ended.set()
        signal.set_wakeup_fd(self._fd_before)
        os.write(self._writing, _END)
        self._thread.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for descriptor in (self._reading, self._writing):
            os.close(descriptor)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while (byte := os.read(self._reading, 1)) != _END:
            if byte[0] in self._before and not self._ended.wait(GRACE_SECONDS):
                self.number = self.number or byte[0]
                print_message(self.line)
                remove_unfinished()
                os._exit(self.code)
