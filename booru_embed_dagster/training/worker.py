"""The training process, ``python -m booru_embed_dagster.training.worker``, started by `checkpoint` through Pipes.

Training has its own process so that it can be stopped, logged and distributed over ranks. With ``num_processes`` above
1 this process starts torchrun and waits. Every rank reads the same job; only rank 0 talks to Dagster. Without Dagster
the job is a JSON file, the only argument, and torchrun may start this module directly, on any number of machines.
The stages of ``stages`` are started the same way.

Standard library and Pipes only at module level: the asset imports `Job` from here, and torch would slow it down.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from dagster_pipes import PipesDefaultContextLoader, PipesEnvVarParamsLoader, open_dagster_pipes
from pydantic import BaseModel, ConfigDict, Discriminator, Tag, TypeAdapter, ValidationError

from booru_embed_core.errors import DiskError, disk_error, disk_errors, first_line
from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.training.launch_variables import (
    RANK,
    LaunchError,
    checked_variables,
    without_launch_variables,
)
from booru_embed_dagster.training.reasons import (
    CRASH_FILE,
    FAILURE_FILE,
    LOST_FILES,
    PIPE_VARIABLE,
    REPORT,
    leave_reason,
    reason_in,
    reserve_room,
    send,
)
from booru_embed_dagster.training.reporting import rank_of_process, run_reporting, warn
from booru_embed_dagster.training.stages import StageJob, run_stage
from booru_embed_dagster.training.stopping import GRACE_SECONDS, StopRequest

if TYPE_CHECKING:
    from booru_embed_core.training.loop import TrainReport
    from booru_embed_core.training.progress import Progress
    from booru_embed_dagster.training.stopping import ShutdownWatchdog

_TRAINING: Final = "training"
_LOG_EVERY_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.1
_SHUTDOWN_SECONDS: Final = 900
"""How long torchrun waits for its ranks after a stop. `launcher` watches them, and its own default is 30 seconds."""
_ELSEWHERE: Final = (
    "set [warehouse] path to a folder on another disk; then materialize checkpoint again: on the same disk it resumes "
    "from its last saved state"
)
_USAGE: Final = (
    "usage: python -m booru_embed_dagster.training.worker JOB.json   (or without an argument, started by Dagster)"
)


class Job(BaseModel):
    """One training: its inputs, its folders and its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packed_path: Path
    vocab_dir: Path
    work_dir: Path
    """Holds the training state that an interrupted training resumes from."""
    out_dir: Path
    model: ModelSettings
    training: TrainingSettings
    stage: Literal["checkpoint"] = "checkpoint"

    @property
    def name(self) -> str:
        """What messages call it."""
        return _TRAINING

    @property
    def num_processes(self) -> int:
        """Ranks that the training starts by itself, on one machine."""
        return self.training.num_processes


def _kind(job: object) -> str:
    return "stage" if isinstance(job, dict) and job.get("stage", "checkpoint") != "checkpoint" else "training"


_AnyJob: Final[TypeAdapter[Job | StageJob]] = TypeAdapter(
    Annotated[
        Annotated[Job, Tag("training")] | Annotated[StageJob, Tag("stage")],
        Discriminator(_kind),
    ]
)
"""A job of ``stage`` ``checkpoint``, or without one, is a training."""


class ProgressLog:
    """Writes one line per validation, and at most one line every five seconds for other reports."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._last_seconds = -_LOG_EVERY_SECONDS

    def __call__(self, progress: Progress) -> None:
        """Logs `progress` unless the last line is too recent."""
        now = time.monotonic()
        if progress.validation is not None or now - self._last_seconds >= _LOG_EVERY_SECONDS:
            self._last_seconds = now
            self._write(progress.line())


def run_job(
    job: Job, log: Callable[[str], object], deliver: Callable[[dict[str, Any]], object], stop: Callable[[], bool]
) -> int:
    """Runs `job`, or one rank of it; returns 0 after delivering the report, or 1 after writing the reason.

    The reason is in `FAILURE_FILE`, or in this rank's file of `LOST_FILES` if it lost the others.

    Args:
        job: what to train.
        log: called with progress lines.
        deliver: called once, with the training report.
        stop: asked after each step, and continuously by a thread for steps that take too long.
    """
    from booru_embed_core.training.loop import TrainingInterrupted, train

    folder = _folder_of(job)

    def compute(watchdog: ShutdownWatchdog) -> TrainReport:
        return train(
            job.packed_path,
            job.vocab_dir,
            job.work_dir,
            job.out_dir,
            job.model,
            job.training,
            ProgressLog(log),
            stop,
            lambda save: watchdog.offer_save(partial(_saved, save, folder)),
            log,
        )

    report = run_reporting(
        job,
        compute,
        stop,
        folder=folder,
        elsewhere=_ELSEWHERE,
        less_memory="lower [training] batch_posts",
        # The first rank saves. It would notice the end of another rank, so the others wait until it has begun.
        grace_seconds=GRACE_SECONDS if rank_of_process() == 0 else GRACE_SECONDS + 2,
        expected=(TrainingInterrupted,),
    )
    if report is None:
        return 1
    send(REPORT, json.dumps(asdict(report)))
    deliver(asdict(report))
    return 0


def _folder_of(job: Job) -> Path:
    """The folder that a message about a full disk names: both of the job's folders are on the warehouse's disk."""
    common = Path(os.path.commonpath([job.work_dir.absolute(), job.out_dir.absolute()]))
    return job.work_dir if common == Path(common.anchor) else common


def _saved(save: Callable[[], str | None], folder: Path) -> str | None:
    """The message of `save`, or why it could not."""
    try:
        with disk_errors(folder, _ELSEWHERE):
            return save()
    except DiskError as error:
        return f"stopped, but the state could not be saved: {error}"


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 done, 1 training failed or was stopped, 2 wrong use, 75 the ranks lost each other."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    params = PipesEnvVarParamsLoader()  # type: ignore[no-untyped-call]
    is_started_by_dagster = params.is_dagster_pipes_process() and not arguments
    if not is_started_by_dagster and len(arguments) != 1:
        sys.stderr.write(_USAGE + "\n")
        return 2
    if is_started_by_dagster:
        with PipesDefaultContextLoader().load_context(params.load_context_params()) as data:
            job = _AnyJob.validate_python(data["extras"])
    else:
        try:
            job = _AnyJob.validate_json(Path(arguments[0]).read_bytes())
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else first_line(error)
            warn(_TRAINING, f"{arguments[0]}: not a job ({reason}); name the JSON file of one")
            return 1
    sys.excepthook = partial(_leave_traceback, job.out_dir)
    try:
        checked_variables()
        reserve_room(job.out_dir, rank_of_process())
    except (LaunchError, OSError) as error:
        line = str(disk_error(error, job.out_dir, _ELSEWHERE) or error)
        leave_reason(job.out_dir, FAILURE_FILE, line, 0)
        warn(_TRAINING, line)
        return 1
    is_rank = RANK in os.environ
    stop = StopRequest(os.getppid() if is_started_by_dagster or is_rank else None)
    if job.num_processes > 1 and not is_rank:
        return start_ranks(job, arguments, stop)
    if is_started_by_dagster and rank_of_process() == 0:
        with open_dagster_pipes() as pipes:
            return _run(job, pipes.log.info, pipes.report_custom_message, stop)
    return _run(job, logging.getLogger(__name__).info, lambda _: None, stop)


def _run(
    job: Job | StageJob,
    log: Callable[[str], object],
    deliver: Callable[[dict[str, Any]], object],
    stop: Callable[[], bool],
) -> int:
    return run_job(job, log, deliver, stop) if isinstance(job, Job) else run_stage(job, log, deliver, stop)


def start_ranks(job: Job | StageJob, arguments: Sequence[str], stop: Callable[[], bool]) -> int:
    """Runs the ranks of `job` on this machine with torchrun, and passes a stop on; returns the exit code.

    It is ``os.EX_TEMPFAIL`` if every rank reported that it lost the others, so that none failed or was killed.
    """
    num_processes = job.num_processes
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    torchrun += ["--local-addr", "127.0.0.1"]  # the name of a machine or a container need not resolve
    torchrun += ["--shutdown-timeout", str(_SHUTDOWN_SECONDS)]
    process = subprocess.Popen(  # noqa: S603  our own command
        [*torchrun, "--module", "booru_embed_dagster.training.worker", *arguments],
        # torchrun takes some in place of its own options; the ranks do not have the pipe.
        env={name: value for name, value in without_launch_variables(os.environ).items() if name != PIPE_VARIABLE},
    )
    while process.poll() is None:
        if stop():
            process.terminate()
            return process.wait() or 1
        time.sleep(_POLL_SECONDS)
    if process.returncode == 0:
        return 0
    has_reason = any(reason_in(job.out_dir, file) for file in (FAILURE_FILE, CRASH_FILE))
    are_lost = all((job.out_dir / LOST_FILES.format(rank=rank)).exists() for rank in range(num_processes))
    return os.EX_TEMPFAIL if are_lost and not has_reason else 1


def _leave_traceback(
    out_dir: Path, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    leave_reason(out_dir, CRASH_FILE, "".join(traceback.format_exception(kind, error, trace)), rank_of_process())
    sys.__excepthook__(kind, error, trace)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
