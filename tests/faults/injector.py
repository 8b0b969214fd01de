"""Writes that fail: ``inject.c`` built and loaded, armed in this process, and what it saw.

A process that is to be armed must have been started with `environment`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("inject.c")
PRELOAD = "LD_PRELOAD"


class How(IntEnum):
    """What becomes of the n-th call; the values are those of ``inject.c``."""

    COUNT = 1
    FULL = 2
    """The disk is full from there on: nothing new has room, and the first write is a short one."""
    ONCE = 3
    """It fails with EIO, and later ones do not."""
    KILL = 4
    """The process is killed there, in the middle of what it writes."""


@dataclass(frozen=True)
class Call:
    """A call that writes: its name, whether a full disk refuses it, and its path; `other` is a rename's or link's."""

    name: str
    takes_room: bool
    path: Path
    other: str


def missing() -> str:
    """Why nothing can be injected here; empty if it can."""
    if not sys.platform.startswith("linux"):
        return "faults are injected on Linux alone"
    return "" if compiler() else "no C compiler (cc) to build the fault injector"


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(folder: Path) -> Path:
    """The library, built in `folder`."""
    library, command = folder / "inject.so", compiler()
    assert command is not None
    options = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run([command, *options], check=True, capture_output=True, text=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """This process's environment for one that can be armed. Threads would write in another order each time."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_IO_THREADS"), "1")
    return {**os.environ, **threads, PRELOAD: str(library), "PYTHONDONTWRITEBYTECODE": "1"}


def arm(folder: Path, how: How, n: int = 0, log: int = -1) -> None:
    """From now on, calls that write below `folder` are counted, and the `n`-th becomes what `how` says.

    Args:
        folder: an absolute path without links.
        how: what happens.
        n: counted from 1.
        log: the descriptor that gets a line for each call.
    """
    ctypes.CDLL(None).inject_arm(os.fsencode(folder), int(how), ctypes.c_long(n), errno.EIO, log)


def disarm() -> int:
    """Ends that; returns how many calls there were."""
    return int(ctypes.CDLL(None).inject_disarm())


def calls_in(log: Path) -> list[Call]:
    """The calls in a log, in order."""
    lines = [line.split("\t") for line in log.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    return [Call(name, room == "1", Path(path), other) for _, name, room, path, other in lines]
