"""Runs whose process is gone are ended, runs that live are left alone: by files and locks of real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from booru_embed_dagster.automation import runs
from booru_embed_dagster.automation.runs import (
    PROCESS_GONE,
    REBUILD_TAG,
    MonitoredRunLauncher,
    end_dead_runs,
    sign_of_life,
)
from tests.dagster.project_helpers import FILES_INSTANCE

HOLD = """
import fcntl, sys
held = open(sys.argv[1])
fcntl.flock(held, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """An instance as `make run` uses it."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(FILES_INSTANCE, folder / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(folder)) as opened:
        yield opened


@pytest.fixture
def instance(home: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    """The same one, without runs."""
    yield home
    for run in home.get_runs():
        home.delete_run(run.run_id)
    for descriptor in runs._held.values():
        os.close(descriptor)
    runs._held.clear()
    shutil.rmtree(runs._file_of(home, "").parent, ignore_errors=True)


@pytest.fixture
def launcher(instance: dg.DagsterInstance) -> MonitoredRunLauncher:
    assert isinstance(instance.run_launcher, MonitoredRunLauncher)
    return instance.run_launcher


@dg.job
def nothing() -> None:
    """No op."""


def begin(instance: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    """A run that is STARTED."""
    run = instance.create_run_for_job(nothing, tags=tags)
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "nothing"), run_id=run.run_id)
    return reloaded(instance, run)


def reloaded(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def sign(instance: dg.DagsterInstance, run: dg.DagsterRun, **values: Any) -> Path:
    """The file of `run`, held by nobody, as a process left it that is gone; `values` replace what it says."""
    file = runs._file_of(instance, run.run_id)
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {"pid": 1, "pids": runs._process_ids(), "host": socket.gethostname(), "boot": "before"} | values
    file.write_text(json.dumps(record), encoding="utf-8")
    return file


def age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the time pass that a run has to sign."""
    now = time.time
    monkeypatch.setattr(runs.time, "time", lambda: now() + runs._UNSIGNED_SECONDS + 1)


def test_a_run_signs_while_its_process_lives_and_lets_go_of_those_it_has_finished(
    instance: dg.DagsterInstance, launcher: MonitoredRunLauncher
) -> None:
    first, second = begin(instance), begin(instance)
    sign_of_life(instance, first.run_id)
    assert launcher.check_run_worker_health(first).status == WorkerStatus.RUNNING
    end_dead_runs(instance)
    assert reloaded(instance, first).status == dg.DagsterRunStatus.STARTED
    instance.report_run_failed(first)
    sign_of_life(instance, second.run_id)
    assert set(runs._held) == {second.run_id}
    assert [file.stem for file in runs._file_of(instance, "").parent.iterdir()] == [second.run_id]


def test_a_run_that_died_is_failed_and_one_that_was_being_stopped_canceled(instance: dg.DagsterInstance) -> None:
    dead, stopping = begin(instance), begin(instance)
    instance.report_run_canceling(stopping)
    for run in (dead, stopping):
        sign(instance, run)
    nested = begin(instance, **{REBUILD_TAG: dead.run_id})
    end_dead_runs(instance)
    statuses = [reloaded(instance, run).status.value for run in (dead, stopping, nested)]
    assert statuses == ["FAILURE", "CANCELED", "FAILURE"]
    assert PROCESS_GONE in [entry.message for entry in instance.all_logs(dead.run_id)]
    assert list(runs._file_of(instance, "").parent.iterdir()) == []


def test_a_run_that_never_started_is_failed_in_time(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, now = instance.create_run_for_job(nothing), time.time
    end_dead_runs(instance)
    assert reloaded(instance, run).status == dg.DagsterRunStatus.NOT_STARTED
    monkeypatch.setattr(runs.time, "time", lambda: now() + instance.run_monitoring_start_timeout_seconds + 1)
    end_dead_runs(instance)
    assert reloaded(instance, run).status == dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize("status", [WorkerStatus.RUNNING, WorkerStatus.FAILED])
def test_the_lock_of_another_process_tells_and_is_lost_by_a_kill(
    instance: dg.DagsterInstance, launcher: MonitoredRunLauncher, status: WorkerStatus
) -> None:
    run = begin(instance)
    file = sign(instance, run)
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if status == WorkerStatus.FAILED:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert launcher.check_run_worker_health(run).status == status
        process.kill()


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"host": "elsewhere"}, WorkerStatus.RUNNING),
        ({"host": "container", "boot": "this"}, WorkerStatus.FAILED),  # another container of this machine
        ({"boot": ""}, WorkerStatus.FAILED),  # no Linux
    ],
)
def test_only_runs_of_this_machine_are_judged(
    instance: dg.DagsterInstance,
    launcher: MonitoredRunLauncher,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, str],
    status: WorkerStatus,
) -> None:
    monkeypatch.setattr(runs, "_boot", lambda: "this")
    run = begin(instance)
    sign(instance, run, **values)
    assert launcher.check_run_worker_health(run).status == status


def test_a_run_without_a_file_is_gone_when_the_process_that_its_events_name_is(
    instance: dg.DagsterInstance, launcher: MonitoredRunLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster._core.events import EngineEventData

    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    unsigned, lives, died = begin(instance), begin(instance), begin(instance)
    instance.report_engine_event("in process", lives, EngineEventData.in_process(os.getpid()))
    instance.report_engine_event("in process", died, EngineEventData.in_process(gone.pid))
    assert {launcher.check_run_worker_health(run).status for run in (unsigned, died)} == {WorkerStatus.RUNNING}
    age(monkeypatch)
    assert launcher.check_run_worker_health(unsigned).status == WorkerStatus.FAILED
    assert launcher.check_run_worker_health(lives).status == WorkerStatus.RUNNING
    assert launcher.check_run_worker_health(died).status == WorkerStatus.FAILED
    monkeypatch.setattr(runs, "SqliteRunStorage", type("Other", (), {}))  # a database may hold runs of other machines
    assert launcher.check_run_worker_health(died).status == WorkerStatus.RUNNING


def test_terminate_reaches_a_run_of_the_command_line(
    instance: dg.DagsterInstance, launcher: MonitoredRunLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    run, foreign, dead = begin(instance), begin(instance), begin(instance)
    sign_of_life(instance, run.run_id)
    sign(instance, foreign, host="elsewhere")
    sign(instance, dead)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    assert launcher.terminate(run.run_id)
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert reloaded(instance, run).status == dg.DagsterRunStatus.CANCELING
    assert launcher.terminate(dead.run_id)
    assert reloaded(instance, dead).status == dg.DagsterRunStatus.CANCELED
    assert not launcher.terminate(foreign.run_id)
    assert len(sent) == 1


def test_other_launchers_are_left_alone() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = begin(instance, **{GRPC_INFO_TAG: "{}"})
        sign_of_life(instance, run.run_id)
        end_dead_runs(instance)
        assert runs._held == {}
        assert reloaded(instance, run).status == dg.DagsterRunStatus.STARTED
