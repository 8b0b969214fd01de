"""Why a training ended: text files in the job's ``out_dir``, a failed process's only channel to its parent.

Room for them is reserved while there is some, since a full disk is one of the reasons. Standard library only.
"""

from __future__ import annotations

import contextlib
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
    """Writes the file `name`, with the end of `text`, into the room that was reserved for the rank.

    If there is none and the disk is full, nothing is written: the same text is on stderr.
    """
    reserve, content = out_dir / _RESERVES.format(rank=rank), text.encode(errors="replace")[-RESERVED_BYTES:]
    with contextlib.suppress(OSError):
        if not reserve.exists():
            (out_dir / name).write_bytes(content)
            return
        with reserve.open("r+b") as stream:  # over the bytes that are there, which needs no further room
            stream.write(content)
            stream.truncate()
        reserve.replace(out_dir / name)


def reason_in(out_dir: Path, name: str) -> str:
    """The text of the file `name`; empty if there is none."""
    try:
        return (out_dir / name).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""
