"""The standard streams of a command: closed, full, broken, or of an encoding that lacks the letters of a tag."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, Final, TextIO

from booru_embed_core.errors import REMEDIES, DiskError

_IN, _OUT, _ERR = range(3)
_OUTPUT: Final = "standard output"
_OTHER_DISK: Final = "write it to another disk"
_NO_READER: Final = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)
"""Its reader has stopped."""
_UNREADABLE: Final = (errno.EBADF, errno.EISDIR)


class OutputError(OSError):
    """Standard output could not be written."""


class _Output(io.FileIO):
    """Standard output whose errors can be told from those of other files."""

    def write(self, content: Any) -> int:
        """As in `io.FileIO`.

        Raises:
            OutputError: for any error of the system.
        """
        try:
            return super().write(content)
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from None


def prepare_streams() -> None:
    """Gives every standard stream a file that is open, and lets the output take any text.

    Otherwise the next file that is opened would take the number of a closed stream, and what a library prints would
    go into it. Reading from a closed input fails, as does printing to a closed output; messages to a closed stderr are
    dropped.
    """
    for number, mode in ((_IN, os.O_WRONLY), (_OUT, os.O_RDONLY), (_ERR, os.O_WRONLY)):
        if not _is_open(number):
            os.open(os.devnull, mode)  # the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(_IN, encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(_ERR, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    before = sys.stdout
    if sys.platform == "win32" and isinstance(before, io.TextIOWrapper) and before.isatty():
        before.reconfigure(errors="backslashreplace")  # bytes would be shown in the console's own encoding
    elif before is None or _number(before) == _OUT:
        output = _Output(_OUT, "w", closefd=False)
        # Programs read UTF-8 whatever the locale. Text that came in as bytes of no encoding is shown as in Python.
        encoding = before.encoding if before is not None and output.isatty() else "utf-8"
        buffer = io.BufferedWriter(output)
        sys.stdout = io.TextIOWrapper(buffer, encoding, "backslashreplace", "\n", line_buffering=output.isatty())


def _number(stream: TextIO) -> int | None:
    """The descriptor of `stream`; None for one in memory."""
    try:
        return stream.fileno()
    except OSError:
        return None


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def stream_error(error: OSError) -> str | None:
    """The line for an `error` of the standard output or input, empty if there is nothing to say; None for another one.

    After an error of the output, what is still to be printed is dropped.
    """
    if isinstance(error, OutputError):
        drop_output()
        if error.errno in _NO_READER:
            return ""
        if error.errno == errno.EBADF:
            return f"{_OUTPUT}: it is closed; open it, or send it to {os.devnull}"
        remedy = "" if error.errno in REMEDIES else _OTHER_DISK
        return str(DiskError(error.errno or 0, Path(_OUTPUT), _OTHER_DISK, remedy=remedy))
    if error.filename is None and error.errno in _UNREADABLE:
        reason = "it is closed" if error.errno == errno.EBADF else os.strerror(error.errno)
        return f"standard input: {reason}; pipe the text in, or name a file"
    return None


def drop_output() -> None:
    """Drops what is still to be printed. Without this, Python would report the failure again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _OUT)


def print_notice(line: str) -> None:
    """Prints `line` on standard output at once; a server does not end because nobody can read it."""
    try:
        print(line, flush=True)
    except OSError:
        drop_output()


def print_message(line: str) -> None:
    """Prints `line` on stderr; without a reader it is dropped."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), _ERR)
