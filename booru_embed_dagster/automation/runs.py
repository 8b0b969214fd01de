"""Runs whose process is gone: each run gives a sign of life, and one that gives none any more is ended as failed.

The sign is a file that the process of a run keeps locked. The kernel releases the lock however the process ends: by
``kill -9``, for want of memory, with the machine. Who looks is Dagster's run monitoring, by `MonitoredRunLauncher`,
which ``dagster.yaml`` names, and every run when it starts. It serves runs of the command line as well, which no code
server knows. On Kubernetes the pods are looked at instead, by a launcher of its own.

No import of the pipeline: the web server and the daemon load this module.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, Final

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.tags import GRPC_INFO_TAG

from booru_embed_core.filesystem import sync

REBUILD_TAG: Final = "booru_embed/rebuild"
"""The tag of runs that another run executes in its own process; its value is the id of that run."""
PROCESS_GONE: Final = (
    "the process of this run is gone (killed, out of memory, or with its machine); materialize again: "
    "a training resumes from its last saved state"
)
_FOLDER: Final = "processes"
_BOOT_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
_PIDS_LINK: Final = Path("/proc/self/ns/pid")
_UNSIGNED_SECONDS: Final = 60.0
"""A run is given this long from its start to its sign of life, which it takes milliseconds later."""
_BEGINNING: Final = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)
_GOING: Final = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
_RUNNING: Final = CheckRunHealthResult(WorkerStatus.RUNNING)
_GONE: Final = CheckRunHealthResult(WorkerStatus.FAILED, PROCESS_GONE)

_held: dict[str, int] = {}
"""The descriptor of the locked file of each run that this process executes. Closed by its end, or by a later run."""


class MonitoredRunLauncher(dg.DefaultRunLauncher):
    """Dagster's own launcher, which also knows whether the process of a run is still there, and can end it."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: `run_monitoring` in ``dagster.yaml`` asks `check_run_worker_health`."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """FAILED if the process of `run` is gone for certain; RUNNING if it lives, or if only another host knows."""
        instance = self._instance
        file = _file_of(instance, run.tags.get(REBUILD_TAG, run.run_id))
        record = _read(file)
        if record is None:
            return _GONE if _is_gone_without_sign(instance, run) else _RUNNING
        return _GONE if _is_of_this_host(record) and not _is_locked(file) else _RUNNING

    def terminate(self, run_id: str) -> bool:
        """Asks the process of a run to stop; also one that was started from the command line of this machine."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if run.status == dg.DagsterRunStatus.STARTED and self.check_run_worker_health(run) == _GONE:
            self._instance.report_run_canceling(run)
            self._instance.report_run_canceled(run, PROCESS_GONE)
            return True
        file = _file_of(self._instance, run_id)
        record = _read(file)
        is_reached = record is not None and record["pids"] == _process_ids() and _is_of_this_host(record)
        # A locked file is held by the process that wrote it: its id cannot be another process's by now.
        if record is None or GRPC_INFO_TAG in run.tags or not is_reached or not _is_locked(file):
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        self._instance.report_run_canceling(run)
        os.kill(int(record["pid"]), signal.SIGTERM)
        return True


def sign_of_life(instance: dg.DagsterInstance, run_id: str) -> None:
    """Signs that this process executes the run, until it ends; runs that this process has finished are let go.

    Raises:
        OSError: the instance's folder cannot be written.
    """
    if not _is_monitored(instance):
        return
    for known, descriptor in list(_held.items()):
        run = instance.get_run_by_id(known)
        if run is None or run.is_finished:
            del _held[known]
            _file_of(instance, known).unlink(missing_ok=True)
            os.close(descriptor)
    file = _file_of(instance, run_id)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    record = {"pid": os.getpid(), "pids": _process_ids(), "host": socket.gethostname(), "boot": _boot()}
    os.write(descriptor, json.dumps(record).encode())
    os.fsync(descriptor)
    partial.replace(file)  # locked and complete before it has its name
    sync(file.parent)
    _held[run_id] = descriptor


def end_dead_runs(instance: dg.DagsterInstance) -> None:
    """Ends the runs of `instance` whose process is gone, as Dagster's daemon does where one is running."""
    if not _is_monitored(instance):
        return
    for record in instance.get_run_records(dg.RunsFilter(statuses=[*_BEGINNING, *_GOING])):
        run = record.dagster_run
        if run.status in _GOING:
            is_gone = instance.run_launcher.check_run_worker_health(run) == _GONE
        else:
            is_gone = time.time() - record.update_timestamp.timestamp() > instance.run_monitoring_start_timeout_seconds
        now = instance.get_run_by_id(run.run_id)
        if is_gone and now is not None and now.status == run.status:
            report = (
                instance.report_run_canceled
                if now.status == dg.DagsterRunStatus.CANCELING
                else instance.report_run_failed
            )
            report(now, PROCESS_GONE)
    _remove_unused(instance)


def _is_monitored(instance: dg.DagsterInstance) -> bool:
    # By its name: on Kubernetes another launcher could not even be created in every pod.
    data = instance.get_ref().run_launcher_data if instance.is_persistent else None
    return data is not None and data.class_name == MonitoredRunLauncher.__name__


def _remove_unused(instance: dg.DagsterInstance) -> None:
    for file in _file_of(instance, "").parent.glob("*"):
        run = instance.get_run_by_id(file.stem)
        if run is None or run.is_finished:
            with contextlib.suppress(OSError):  # another run removes it too
                if not _is_locked(file):
                    file.unlink()


def _file_of(instance: dg.DagsterInstance, run_id: str) -> Path:
    # Below the folder that compose.yaml shares between the containers of one machine.
    return Path(instance.storage_directory(), _FOLDER, f"{run_id}.json")


def _read(file: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError):  # it is not there, or is damaged and tells nothing
        return None
    return record if isinstance(record, dict) and {"pid", "pids", "host", "boot"} <= set(record) else None


def _is_locked(file: Path) -> bool:
    with file.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _is_of_this_host(record: dict[str, Any]) -> bool:
    # Containers of one machine have names of their own and one kernel; a machine keeps its name when it starts again.
    return record["host"] == socket.gethostname() or (bool(record["boot"]) and record["boot"] == _boot())


def _boot() -> str:
    return _BOOT_FILE.read_text().strip() if _BOOT_FILE.exists() else ""


def _process_ids() -> str:
    """The space that process ids of this process are from: a container has its own."""
    return str(_PIDS_LINK.readlink()) if _PIDS_LINK.is_symlink() else ""


def _is_gone_without_sign(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run without a file is gone: killed as it started, or begun by a release that gave no sign."""
    record = instance.get_run_record_by_id(run.run_id)
    if record is None or record.start_time is None or time.time() - record.start_time < _UNSIGNED_SECONDS:
        return False
    events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    metadata = [event.dagster_event.engine_event_data.metadata for event in events if event.dagster_event]
    pids = {int(str(found["pid"].value)) for found in metadata if "pid" in found}
    if not pids:
        return True
    # Files of an instance are of one machine. A database may have runs of others.
    return isinstance(instance.run_storage, SqliteRunStorage) and not any(_is_alive(pid) for pid in pids)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
