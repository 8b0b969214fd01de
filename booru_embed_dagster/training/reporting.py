"""A rank's work in its locked folder, whose failure is told in a file of reasons and on stderr.

Standard library and the project's light modules only at module level, as in ``worker`` and ``stages``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Protocol, TypeVar

from booru_embed_core.errors import disk_errors, library_errors
from booru_embed_core.faults import machine_error
from booru_embed_core.training.launch_variables import RANK
from booru_embed_dagster.training.reasons import FAILURE_FILE, LOST_FILES, leave_reason, release_room
from booru_embed_dagster.training.stopping import ShutdownWatchdog
from booru_embed_dagster.warehouse.warehouse import lock_folder

T = TypeVar("T")


class Work(Protocol):
    """What is used of a job."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def work_dir(self) -> Path:
        """Keeps what is finished; locked by the first rank."""

    @property
    def out_dir(self) -> Path:
        """Where reasons are left."""


def run_reporting(
    job: Work,
    compute: Callable[[ShutdownWatchdog], T],
    stop: Callable[[], bool],
    *,
    folder: Path,
    elsewhere: str,
    less_memory: str,
    grace_seconds: float,
    expected: tuple[type[Exception], ...] = (),
) -> T | None:
    """What `compute` returns; None after the reason for its failure was told.

    The reason is in `FAILURE_FILE`, or in this rank's file of `LOST_FILES` if it lost the others.

    Args:
        job: whose folders these are.
        compute: is given the watchdog, to which it offers a way to save.
        stop: asked continuously by a thread.
        folder: the folder that a message about a full disk names.
        elsewhere: the remedy for a disk that is full or faulty.
        less_memory: the remedy for want of memory.
        grace_seconds: how long `compute` may take to end after a stop.
        expected: exceptions that end the work in order, besides ``ValueError``.
    """
    from booru_embed_core.training.distributed import RankLostError

    def say(line: str, file: str = FAILURE_FILE) -> None:
        leave_reason(job.out_dir, file, line, rank_of_process())
        warn(job.name, line)

    try:
        with disk_errors(folder, elsewhere):
            job.work_dir.mkdir(parents=True, exist_ok=True)
            with (
                lock_folder(job.work_dir) if rank_of_process() == 0 else nullcontext(),
                ShutdownWatchdog(stop, say, grace_seconds) as watchdog,
            ):
                result = compute(watchdog)
    except RankLostError as error:
        say(str(error), LOST_FILES.format(rank=rank_of_process()))
        return None
    except library_errors(ValueError, *expected) as error:
        is_ours = isinstance(error, (ValueError, *expected))
        told = error if is_ours else machine_error(error, folder, elsewhere, less_memory)
        if told is None:
            raise
        say(str(told))
        return None
    release_room(job.out_dir, rank_of_process())
    return result


def warn(name: str, line: str) -> None:
    """Writes `line` of the job called `name` to stderr, which may be closed, or a file on a full disk."""
    with suppress(OSError, AttributeError):
        sys.stderr.write(f"{name}: {line}\n")
        sys.stderr.flush()


def rank_of_process() -> int:
    """This process's rank, 0 without torchrun."""
    return int(os.environ.get(RANK, "0"))
