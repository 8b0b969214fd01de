"""The training process as the `checkpoint` asset sees it: it is started, read, stopped, and its end is explained.

Dagster's own client for subprocesses keeps none of their output and never kills one that does not stop in time. The
process itself runs ``worker.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import dagster as dg

from booru_embed_core.training.launch_variables import launch_variables, without_launch_variables
from booru_embed_dagster.training.reasons import (
    CRASH_FILE,
    FAILURE_FILE,
    LOST_FILES,
    PIPE_VARIABLE,
    REPORT,
    reason_in,
    reserve_room,
    sent_reasons,
)
from booru_embed_dagster.training.stages import StageJob
from booru_embed_dagster.training.worker import Job
from booru_embed_dagster.warehouse.warehouse import lock_folder

COMMAND: Final = (sys.executable, "-m", "booru_embed_dagster.training.worker")
END_SECONDS: Final = 12.0
"""How long a stopped training may write nothing of its state; `stopping` abandons a step after 3 to 5 of these."""
TAIL_LINES: Final = 20
_TAIL_BYTES: Final = 1 << 14
_POLL_SECONDS: Final = 0.1


class TrainingFailedError(ValueError):
    """Training ended without a checkpoint; the message is one line, and after a crash also the last lines of output."""


class RanksLostError(TrainingFailedError):
    """The ranks lost each other and nothing else failed: the same training may succeed on a retry."""


def launch_training(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, job: Job | StageJob, output: Path
) -> dict[str, float | str]:
    """Runs `job` in a process that logs to `context`; returns its report, which is empty for a `StageJob`.

    The process writes to the file `output`, which is echoed to this process's stderr. A pipe would break if this
    process were killed, and the state could then not be saved.

    Raises:
        TrainingFailedError: training failed or was stopped.
        RanksLostError: the ranks lost each other.
        OSError: the disk has no room to tell why training failed.
    """
    if inherited := launch_variables(os.environ):
        context.log.warning(
            f"left out of the environment of {job.name}: {', '.join(inherited)}: another launcher has set them; "
            f"the number of ranks is {job.num_processes}, by the settings"
        )
    for rank in range(job.num_processes):
        reserve_room(job.out_dir, rank)
    with ExitStack() as stack:
        with warnings.catch_warnings():  # Dagster 1.13 warns of a preview feature that it uses itself
            warnings.simplefilter("ignore", dg.PreviewWarning)
            session = stack.enter_context(
                dg.open_pipes_session(
                    context=context.op_execution_context,
                    context_injector=dg.PipesTempFileContextInjector(),
                    message_reader=dg.PipesTempFileMessageReader(),
                    extras=job.model_dump(mode="json"),
                )
            )
        with output.open("wb") as sink, echoed(output):
            code, sent = run_to_end(session.get_bootstrap_env_vars(), sink, job.work_dir)
        if code == os.EX_TEMPFAIL:
            raise RanksLostError(why_it_ended(job.out_dir, output, code, sent, job.stage))
        if code != 0:
            raise TrainingFailedError(why_it_ended(job.out_dir, output, code, sent, job.stage))
    return {} if isinstance(job, StageJob) else report_of(session.get_custom_messages(), sent)


def do_stage(context: dg.AssetExecutionContext, job: StageJob, output: Path) -> None:
    """Does `job` in this process, or in its ranks if there are several, as `launch_training` does a training.

    Raises:
        TrainingFailedError, RanksLostError, OSError: as `launch_training`.
    """
    if job.num_processes > 1:
        launch_training(context, job, output)
        return
    from booru_embed_core.training.distributed import ONE_RANK

    with lock_folder(job.work_dir):
        job.compute(ONE_RANK, context.log.info)


def report_of(messages: Sequence[Any], sent: Mapping[str, str]) -> dict[str, float | str]:
    """The training's report among the `messages` of Pipes, or else in `sent`: their file may be on a full disk.

    Raises:
        TrainingFailedError: it is in neither.
    """
    if not messages and REPORT not in sent:
        raise TrainingFailedError(
            f"training ended, and its report was lost; free some space in {tempfile.gettempdir()}, or point TMPDIR to "
            "another disk, then materialize checkpoint again: it resumes from the last saved state"
        )
    report: dict[str, float | str] = messages[0] if messages else json.loads(sent[REPORT])
    return report


def run_to_end(environment: Mapping[str, str], sink: IO[bytes], work_dir: Path) -> tuple[int, dict[str, str]]:
    """Runs the training process, which writes to `sink`; returns its exit code, and the reasons that it sent by name.

    Its state is saved in `work_dir`. Any interruption of the wait, such as a termination in the UI, also ends the
    process and its ranks.
    """
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        # Its own session: Ctrl-C in a terminal reaches it once, through us, and its group can be ended without it.
        process = subprocess.Popen(  # noqa: S603  our own command
            COMMAND,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**without_launch_variables(os.environ), **environment, PIPE_VARIABLE: str(writing)},
            pass_fds=(writing,),
            start_new_session=True,
        )
        try:
            return process.wait(), sent_reasons(reading)
        finally:
            _end(process, work_dir)
    finally:
        os.close(reading)
        os.close(writing)


def _end(process: subprocess.Popen[bytes], work_dir: Path) -> None:
    """Asks `process`, or the children of a killed one, to stop; kills them when nothing grows for `END_SECONDS`.

    What grows is what they write into `work_dir`: a state of gigabytes takes minutes on a slow disk. Ranks are
    torchrun's children in their own sessions. They end by themselves when torchrun is gone.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            if process.poll() is None and number == signal.SIGTERM:
                process.terminate()  # it tells torchrun, which aborts when it is told twice
            else:
                os.killpg(process.pid, number)
        end, before = time.monotonic() + END_SECONDS, _unfinished(work_dir)
        while time.monotonic() < end:
            if number == signal.SIGTERM and (now := _unfinished(work_dir)) != before:
                end, before = time.monotonic() + END_SECONDS, now
            process.poll()  # an unreaped process still counts as a member of its group
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(_POLL_SECONDS)


def _unfinished(work_dir: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of the files of `work_dir` that are being written."""
    found = []
    for file in sorted([*work_dir.glob("*.partial"), *work_dir.glob("*.partial/*")]):
        with suppress(OSError):  # it was finished meanwhile
            facts = file.stat()
            found.append((file.name, facts.st_size, facts.st_mtime_ns))
    return found


def why_it_ended(
    out_dir: Path, output: Path, code: int, sent: Mapping[str, str] | None = None, asset: str = "checkpoint"
) -> str:
    """Why a training, or another stage, into `out_dir` ended with the exit code `code` after it wrote `output`.

    One line; after a crash, `TAIL_LINES` lines of the traceback or of `output` follow.

    Args:
        out_dir: holds the files of reasons, as far as they could be written.
        output: what the process printed, as far as it could be written.
        code: the exit code.
        sent: the reasons that came through the pipe, by the names of those files.
        asset: what is being made.
    """

    name, less, resumes = (
        ("training", "lower [training] batch_posts", "it resumes from the last saved state")
        if asset == "checkpoint"
        else (asset, f"lower [processes] {asset}", "what is finished is kept")
    )

    def reason_of(name: str) -> str:
        return (sent or {}).get(name) or reason_in(out_dir, name)

    if code == -signal.SIGKILL:  # first: the ranks of a killed torchrun report that they were stopped
        reason = (
            f"{name} was killed (SIGKILL), most likely because memory ran out: {less} or free some memory, then "
            f"materialize {asset}: {resumes}"
        )
    elif failure := reason_of(FAILURE_FILE):
        return failure
    elif lines := reason_of(CRASH_FILE).splitlines():
        return "\n".join([f"{name} crashed: {lines[-1]}", *lines[-TAIL_LINES:]])
    elif lost := sorted(out_dir.glob(LOST_FILES.format(rank="*"))):
        reason = reason_in(out_dir, lost[0].name) or "the ranks lost each other"
    else:
        ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        reason = f"{name} ended {ended} and left no reason"
        reason += "; its last lines follow" if last_lines(output) else f": {output} is empty; look at the system's log"
    return "\n".join([reason, *last_lines(output)])


def last_lines(file: Path) -> list[str]:
    """The last `TAIL_LINES` lines of `file`; none if it cannot be read."""
    with suppress(OSError), file.open("rb") as written:
        written.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        return written.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    return []


@contextmanager
def echoed(file: Path) -> Iterator[None]:
    """Copies what is appended to `file` to stderr, where Dagster reads it, until the block ends."""
    ended = threading.Event()

    def copy() -> None:
        with file.open(encoding="utf-8", errors="replace") as lines:
            is_last = False
            while not is_last:
                is_last = ended.wait(_POLL_SECONDS)  # asked before reading, so that nothing is left out
                with suppress(OSError, ValueError, AttributeError):  # stderr is closed, full or None
                    sys.stderr.write(lines.read())
                    sys.stderr.flush()

    thread = threading.Thread(target=copy, name="echo", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
