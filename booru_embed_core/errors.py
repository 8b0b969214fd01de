"""The text of an error, for one line of a message; and the errors of a disk, told by folder and remedy."""

from __future__ import annotations

import errno
import os
import re
import reprlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

MAX_MESSAGE: Final = 400
"""Characters of another library's message that ours quote."""
MAX_SHOWN: Final = 60
"""Characters of a value that a message shows."""
_MAX_DIGITS: Final = 40
_ACCESS: Final = (
    "end the program that has it open, or give this user access"
    if sys.platform == "win32"
    else "give this user access (chmod, chown)"
)
_REMEDIES: Final = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "mount it for writing",
    errno.EACCES: _ACCESS,
    errno.EPERM: "give this user access (chmod, chown, chattr)",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs, which hold too many files open",
    errno.EIO: "check the disk and its connection (dmesg)",
    errno.ESTALE: "mount the network folder again",
}
"""What to do about each fault of a disk that libraries quote in their messages, by its number."""
_MORE_REMEDIES: Final = {
    errno.ENODEV: "check the disk and its connection (dmesg)",
    errno.ENXIO: "check the disk and its connection (dmesg)",
    errno.ETIMEDOUT: "check the disk, or the network folder, and its connection (dmesg)",
    errno.ENOTCONN: "mount the network folder again",
    errno.EHOSTDOWN: "mount the network folder again",
    errno.EHOSTUNREACH: "mount the network folder again",
    errno.ENOLCK: "choose a folder on a local disk, where files can be locked",
    errno.EOPNOTSUPP: "choose a folder on a local disk",
    errno.ENOSYS: "choose a folder on a local disk",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "mend the links that it leads through",
    errno.EBUSY: "end what is using it",
    errno.ETXTBSY: "end what is using it",
}
"""The same for faults that only errors of the system itself tell of."""
PATH_REMEDIES: Final = {
    errno.ENOENT: "put it back, or correct the path",
    errno.ENOTDIR: "a file is where a folder belongs; move it away",
    errno.EISDIR: "a folder is where a file belongs; move it away",
    errno.EEXIST: "move it away",
    errno.ENOTEMPTY: "move away what is in it",
}
"""The same for what stands at a path, or does not: commonly a block expects these errors, so `disk_errors` does not."""
REMEDIES: Final = _REMEDIES | _MORE_REMEDIES | PATH_REMEDIES
"""What to do about each fault of a disk or path, by its number."""
_UNWRITTEN: Final = (errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ELOOP)
"""The faults that another folder would have as well."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_SHORT_WRITE: Final = re.compile(
    r"\d+ requested and \d+ written|inline_container\.cc|PytorchStreamWriter failed|database or disk is full"
)
"""What numpy, torch and SQLite say when a file could not be written whole, whatever the reason."""
_UNKNOWN_REMEDY: Final = "check the disk, your quota and the limit of a file's size (ulimit -f)"
_WORDS: Final = (
    ("disk I/O error", errno.EIO),
    ("attempt to write a readonly database", errno.EROFS),
    ("unable to open database file", errno.EACCES),
)
"""SQLite's words for faults of a disk."""
_LIBRARY_ERRORS: Final = (
    ("duckdb", "IOException"),
    ("duckdb", "OutOfMemoryException"),
    ("sqlite3", "Error"),
    ("sqlalchemy.exc", "DBAPIError"),
    ("pyarrow.lib", "ArrowException"),
    *(("onnxruntime.capi.onnxruntime_pybind11_state", name) for name in ("Fail", "RuntimeException", "EPFail")),
)
"""Module and name of those that derive from `Exception` alone, and that quote no content of a file."""
_FULL_BYTES: Final = 1 << 20
"""A disk with less space than this is taken for the full one."""


class DiskError(OSError):
    """A disk is full, read-only, faulty or closed to this user; the message is one line with the folder and a remedy.

    Args:
        number: the fault, as in ``errno``.
        place: the file that it concerns, or the folder that is full.
        elsewhere: how to choose another folder; left out of the message if that would not help.
        detail: what more there is to say of the fault.
        remedy: what to do; by default what is usual for the fault.
        reason: what is wrong; by default the system's words for the fault.
    """

    def __init__(
        self, number: int, place: Path, elsewhere: str = "", detail: str = "", remedy: str = "", reason: str = ""
    ) -> None:
        self.place = place
        self.reason = reason or os.strerror(number)
        self.detail = detail
        self.remedy = remedy or REMEDIES[number]
        others = f", or {elsewhere}" if elsewhere and number not in _UNWRITTEN and number not in PATH_REMEDIES else ""
        super().__init__(number, f"{place}: {self.reason}{detail}; {self.remedy}{others}")

    def __str__(self) -> str:
        """The line, without the number in front that other errors of the system have."""
        return str(self.strerror)

    def seen_from(self, folder: Path, elsewhere: str) -> DiskError:
        """The same error for a caller that writes to `folder` and may hide unfinished files in it."""
        assert self.errno is not None
        if not _is_below(self.place, folder):
            return self
        place = folder if self.errno in _FULL else self.place
        return DiskError(self.errno, place, elsewhere, self.detail, self.remedy, self.reason)


def one_line(error: BaseException | str, max_length: int | None = None) -> str:
    """The whole message of `error` in one line, white space folded; the name of its type where it has no message.

    Args:
        error: an exception, or a text.
        max_length: characters to keep; None keeps all.
    """
    text = " ".join(str(error).split())
    return (text or (type(error).__name__ if isinstance(error, BaseException) else ""))[:max_length]


def first_line(error: BaseException | str, max_length: int | None = MAX_MESSAGE) -> str:
    """The first line of the message of `error` that is not blank; the name of its type where it has no message.

    Args:
        error: an exception, or a text.
        max_length: characters to keep; None keeps all.
    """
    lines = str(error).strip().splitlines()
    return one_line(lines[0] if lines else error, max_length)


def shortened(text: str, max_length: int = MAX_SHOWN) -> str:
    """`text` in one line, white space folded; of a longer one its beginning and ``…``.

    Args:
        text: any text; only its beginning is looked at.
        max_length: characters to return at most.
    """
    start = " ".join(text[: 4 * max_length].split())
    is_whole = len(text) <= 4 * max_length and len(start) <= max_length
    return start if is_whole else start[: max_length - 1] + "…"


def shown(value: object, max_length: int = MAX_SHOWN) -> str:
    """How a message shows `value`: as in Python, in one line, a long one shortened and a deep one cut off.

    Args:
        value: a text, number, list, dictionary or anything else.
        max_length: characters of it to show at most, not counting quotes.
    """
    return repr(shortened(value, max_length)) if isinstance(value, str) else shortened(_VALUES.repr(value), max_length)


class _Values(reprlib.Repr):
    """Values without the depth, length and digits at which `repr` fails or takes long."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 4, MAX_MESSAGE, MAX_MESSAGE

    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002
        """As `repr`, which refuses an integer of more than 4,300 digits."""
        return repr(x) if abs(x) < 10**_MAX_DIGITS else f"a number of more than {_MAX_DIGITS} digits"


_VALUES: Final = _Values()


@contextmanager
def disk_errors(folder: Path, elsewhere: str = "") -> Iterator[None]:
    """Replaces faults of a disk in the block, whichever library raises them, by a `DiskError`.

    It stands inside whatever removes unfinished files, so that the free space is that of the failure.

    Args:
        folder: where the block writes.
        elsewhere: how to choose another folder, such as ``name another --output``; left out where a caller knows it.

    Raises:
        DiskError: a fault of the disk.
    """
    try:
        yield
    except DiskError as error:
        raise error.seen_from(folder, elsewhere) from None
    except library_errors() as error:
        found = disk_error(error, folder, elsewhere)
        if found is None:
            raise
        raise found from None


def library_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """The types in which the system, and the libraries loaded so far, tell of a fault of the machine; and `others`."""
    named = ((sys.modules.get(module), name) for module, name in _LIBRARY_ERRORS)
    loaded = [getattr(module, name) for module, name in named if hasattr(module, name)]
    return (OSError, RuntimeError, MemoryError, ImportError, SafetensorError, *loaded, *others)


def disk_error(error: BaseException, folder: Path, elsewhere: str, of_paths: bool = False) -> DiskError | None:
    """The `DiskError` that says what `error` says of a disk, or None if it is another kind of error.

    Args:
        error: an error of the system, or of a library that quotes one in its message.
        folder: where it was written.
        elsewhere: how to choose another folder.
        of_paths: whether what stands at a path, or does not, is such a fault too.
    """
    number = _fault(error)
    if number is None and of_paths and isinstance(error, OSError) and error.errno in PATH_REMEDIES and error.filename:
        number = error.errno
    if number is None:
        return None
    place = _place(error, folder, number)
    if number == errno.ENOSPC and _SHORT_WRITE.search(str(error)) and not _is_full(place):
        return DiskError(errno.EIO, folder, elsewhere, " (a file is not written whole)", _UNKNOWN_REMEDY)
    return DiskError(number, place, elsewhere if _is_below(place, folder) else "", space_left(place, number))


def cannot_be_read(error: OSError, remedy: str) -> str:
    """What is said of a file that cannot be read, with the remedy for the fault; `remedy` for one that has none."""
    known = _REMEDIES | _MORE_REMEDIES | {errno.ENOMEM: "end other programs, which leave too little memory"}
    return f"cannot be read ({error.strerror}); {known.get(error.errno or 0, remedy)}"


def is_disk_full(error: BaseException) -> bool:
    """Whether `error`, of the system or of a library, tells of a full disk or quota."""
    return _fault(error) in _FULL


def _fault(error: BaseException) -> int | None:
    """The number of the fault of a disk that `error` tells of."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _REMEDIES or error.errno in _MORE_REMEDIES else None
    text = str(error)
    if isinstance(error, ValueError) or (isinstance(error, ImportError) and "shared object" not in text):
        return None
    return next((number for number in _REMEDIES if os.strerror(number) in text), _by_library(text))


def _by_library(text: str) -> int | None:
    """The number of a fault that a library tells of in words of its own."""
    if _SHORT_WRITE.search(text):
        return errno.ENOSPC
    return next((number for words, number in _WORDS if words in text), None)


def _place(error: BaseException, folder: Path, number: int) -> Path:
    """The file that `error` names, or the folder that is full."""
    # A copy that fails names the source first.
    name = (error.filename2 or error.filename) if isinstance(error, OSError) else None
    if number not in _FULL:
        return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else folder
    if isinstance(name, str | bytes) and not _is_below(Path(os.fsdecode(name)), folder):
        return Path(os.fsdecode(name)).parent
    temporary = Path(tempfile.gettempdir())
    is_elsewhere = number == errno.ENOSPC and not _is_full(folder) and _is_full(temporary)
    return temporary if is_elsewhere else folder


def _is_below(path: Path, folder: Path) -> bool:
    return path.absolute().is_relative_to(folder.absolute())


def _is_full(folder: Path) -> bool:
    return shutil.disk_usage(existing(folder)).free < _FULL_BYTES


def space_left(folder: Path, number: int = errno.ENOSPC) -> str:
    """What is left on the disk of `folder`, in brackets, if the fault `number` is a full disk."""
    if number != errno.ENOSPC:
        return ""
    there = existing(folder)
    usage = shutil.disk_usage(there)
    mount = next((parent for parent in (there, *there.parents) if os.path.ismount(parent)), there)
    if sys.platform != "win32":
        counts = os.statvfs(there)
        if counts.f_files and not counts.f_favail:
            return f" (no file can be created on the disk {mount}, which holds {counts.f_files:,})"
    return f" (the disk {mount} has {_megabytes(usage.free)} of {_megabytes(usage.total)} MB left, which is too little)"


def existing(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    there = folder.absolute()
    return next(parent for parent in (there, *there.parents) if parent.exists())


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f}"
