"""Why a training ended: text files in the job's ``out_dir``, and a pipe from the process to its parent.

A faulty disk is one of the reasons. So room for the files is reserved while there is some, and the pipe needs no disk.
Only the first process has it: torchrun passes no descriptors on to the ranks. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Final

FAILURE_FILE: Final = "failure.txt"
"""The reason of a failure, one line."""
CRASH_FILE: Final = "crash.txt"
"""The traceback of an unexpected error: torchrun prints other last lines."""
LOST_FILES: Final = "lost-{rank}.txt"
"""The message of each rank that lost the others. A killed rank leaves none."""
_RESERVES: Final = ".reserve-{rank}"
RESERVED_BYTES: Final = 1 << 16
PIPE_VARIABLE: Final = "BOORU_EMBED_REASON_PIPE"
"""Holds the number of the pipe's descriptor in the process that trains."""
REPORT: Final = "report"
"""The name of the training report in the pipe: JSON."""
_PIPE_CHARACTERS: Final = 2000
"""Of the end of a text: less than 4,096 bytes are written at once or not at all, however full the pipe is."""


def reserve_room(out_dir: Path, rank: int) -> None:
    """Reserves the room for the reason of one rank, unless that was done before.

    Raises:
        OSError: the disk has no room left, or is closed to this user.
    """
    file = out_dir / _RESERVES.format(rank=rank)
    if not file.exists():
        file.write_bytes(bytes(RESERVED_BYTES))


def release_room(out_dir: Path, rank: int) -> None:
    """Gives the reserved room back: the folder is about to be published."""
    (out_dir / _RESERVES.format(rank=rank)).unlink(missing_ok=True)


def leave_reason(out_dir: Path, name: str, text: str, rank: int) -> None:
    """Tells the parent the end of `text` under the name `name`: by the pipe and by the file of that name.

    The file takes the room that was reserved for the rank. If there is none and the disk is full, it is not written:
    the same text is on stderr.
    """
    send(name, text)
    reserve, content = out_dir / _RESERVES.format(rank=rank), text.encode(errors="replace")[-RESERVED_BYTES:]
    with contextlib.suppress(OSError):
        if not reserve.exists():
            (out_dir / name).write_bytes(content)
            return
        with reserve.open("r+b") as stream:  # over the bytes that are there, which needs no further room
            stream.write(content)
            stream.truncate()
        reserve.replace(out_dir / name)


def send(name: str, text: str) -> None:
    """Puts the end of `text` into the pipe to the parent, if there is one, under the name `name`."""
    line = json.dumps({"name": name, "text": text[-_PIPE_CHARACTERS:]}, ensure_ascii=False) + "\n"
    with contextlib.suppress(OSError, ValueError):  # the parent is gone
        descriptor = int(os.environ.get(PIPE_VARIABLE, "-1"))
        if descriptor >= 0 and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.write(descriptor, line.encode(errors="replace"))


def sent_reasons(reading: int) -> dict[str, str]:
    """The texts by name that a process which has ended left in the pipe `reading`."""
    os.set_blocking(reading, False)  # a process of its group may still hold the other end
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        lines = os.read(reading, RESERVED_BYTES).decode(errors="replace").splitlines()
        return {sent["name"]: sent["text"].strip() for sent in map(json.loads, lines)}
    return {}


def reason_in(out_dir: Path, name: str) -> str:
    """The text of the file `name`; empty if there is none, or none that can be read."""
    try:
        return (out_dir / name).read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    except OSError:
        return ""
