"""The standard streams of a command: closed, full, broken, or of an encoding that lacks the letters of a tag."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Final

from booru_embed_core.errors import DiskError

_IN, _OUT, _ERR = range(3)
_OTHER_DISK: Final = "write it to another disk"
_UNREADABLE: Final = (errno.EBADF, errno.EISDIR)


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
    sys.stdout = sys.stdout or os.fdopen(_OUT, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(_ERR, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Programs read UTF-8 whatever the locale. Text that came in as bytes of no encoding is shown as in Python.
        encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def stream_error(error: BaseException) -> str | None:
    """The line for an `error` of the standard output or input; None if it is one of a file."""
    if not isinstance(error, OSError) or isinstance(error, DiskError) or error.filename is not None:
        return None
    found = _output_error() or (error if error.errno == errno.ENOSPC else None)
    if found is not None:
        drop_output()
        if found.errno == errno.EBADF:
            return "standard output: it is closed; open it, or send it to /dev/null"
        if found.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            return str(DiskError(found.errno, Path("standard output"), _OTHER_DISK))
        return f"standard output: {os.strerror(found.errno or 0)}; {_OTHER_DISK}"
    if error.errno in _UNREADABLE:
        reason = "it is closed" if error.errno == errno.EBADF else os.strerror(error.errno)
        return f"standard input: {reason}; pipe the text in, or name a file"
    return None


def _output_error() -> OSError | None:
    """The error of what is still to be printed: a failed write leaves it to be tried again."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None


def drop_output() -> None:
    """Drops what is still to be printed. Without this, Python would report the failure again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _OUT)


def print_message(line: str) -> None:
    """Prints `line` on stderr; without a reader it is dropped."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), _ERR)
