"""Faults of the machine, told where a command or an asset ends: of a disk, of memory, of a limit.

What belongs here: which errors are such faults, whichever library raises them. The faults of a disk are in ``errors``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from pathlib import Path
from typing import Final

from booru_embed_core.errors import DiskError, disk_error, first_line

_NO_MEMORY: Final = re.compile(
    r"out of memory|can.?t allocate memory|cannot allocate memory|not enough memory|bad_?alloc|unable to allocate"
    r"|failed to allocate|alloc_failed|failed to map segment|array allocation|exceeds maximum .*allocation",
    re.IGNORECASE,
)
"""How numpy, torch, CUDA, Arrow, DuckDB, faiss and the dynamic linker say that memory ran out."""
_ON_GPU: Final = re.compile(r"\b(CUDA|HIP|GPU|CUBLAS|CUDNN|MPS)", re.IGNORECASE)
_NO_THREAD: Final = re.compile(r"can't start new thread|Resource temporarily unavailable", re.IGNORECASE)
_NUM_QUOTED: Final = 160


class MachineError(OSError):
    """Memory, threads or processes ran out; the message is one line with a remedy."""

    def __init__(self, number: int, line: str) -> None:
        super().__init__(number, line)

    def __str__(self) -> str:
        """The line, without the number in front that other errors of the system have."""
        return str(self.strerror)


def machine_error(
    error: BaseException, folder: Path, elsewhere: str = "", less_memory: str = ""
) -> DiskError | MachineError | None:
    """The error of one line for a fault of the machine that `error` tells of, or None if it is another kind of error.

    Args:
        error: what ended a command or an asset.
        folder: where it writes, or the folder to name for a fault that names none.
        elsewhere: how to choose another folder.
        less_memory: what lowers the need of memory.
    """
    if isinstance(error, DiskError | MachineError):
        return error
    if _is_of_memory(error):
        return MachineError(errno.ENOMEM, _memory_line(error, less_memory))
    if _is_of_threads(error):
        return MachineError(
            errno.EAGAIN,
            f"no further thread or process can be started ({first_line(error, _NUM_QUOTED)}); end other programs, or "
            "raise the limit (ulimit -u)",
        )
    return disk_error(error, folder, elsewhere, of_paths=True)


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return not isinstance(error, ValueError) and bool(_NO_MEMORY.search(str(error)))


def _is_of_threads(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.EAGAIN
    return isinstance(error, RuntimeError) and bool(_NO_THREAD.search(str(error)))


def _memory_line(error: BaseException, less_memory: str) -> str:
    quoted = _quoted(error)
    if isinstance(error, RuntimeError) and _ON_GPU.search(str(error)):
        return f"the memory of the GPU ran out{quoted}; {_joined('end what else uses it', less_memory)}"
    limit = _limit_bytes()
    if limit is not None:
        raising = f"raise the limit of this process, {limit / 1e6:,.0f} MB (ulimit -v)"
        return f"memory ran out{quoted}; {_joined(raising, less_memory)}"
    return f"memory ran out{quoted}; {_joined(f'end other programs{_machine_memory()}', less_memory)}"


def _quoted(error: BaseException) -> str:
    """What `error` says, in brackets; of an error of the system the file."""
    if isinstance(error, OSError):
        return f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    return f" ({first_line(error, _NUM_QUOTED)})" if str(error) else ""


def _joined(remedy: str, other: str) -> str:
    return f"{remedy}, or {other}" if other else remedy


def _limit_bytes() -> int | None:
    """The limit of this process's address space; None without one."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _machine_memory() -> str:
    """How much memory is free, in brackets, where the system tells."""
    if sys.platform == "win32":
        return ""
    with contextlib.suppress(ValueError, OSError):
        free, total = (os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
        return f" ({free / 1e6:,.0f} of {total / 1e6:,.0f} MB are free)"
    return ""
