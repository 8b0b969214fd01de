"""How training is stopped, also where a step or a validation would take for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import dagster as dg
import pytest

from booru_embed_core.settings import load_settings
from booru_embed_core.tokens.packed_file import PACKED_FILE
from booru_embed_dagster.training import stopping
from booru_embed_dagster.training.reasons import FAILURE_FILE
from booru_embed_dagster.training.stopping import ShutdownWatchdog, StopRequest
from booru_embed_dagster.training.worker import Job, run_job
from tests.dagster.project_helpers import Project

pytestmark = pytest.mark.usefixtures("_process_hooks")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_training_to_stop(number: signal.Signals) -> None:
    if number != signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)  # as a shell leaves it for a job in the background
    stop = StopRequest(parent=os.getppid())
    assert not stop()
    os.kill(os.getpid(), number)
    assert stop()


def test_nohup_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest(parent=os.getppid())
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop()


def test_an_orphan_stops() -> None:
    assert StopRequest(parent=os.getppid() + 1)()
    assert not StopRequest(parent=None)()


def test_a_training_that_ends_in_time_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping.os, "_exit", lambda _: pytest.fail("it ended by itself"))
    asked = threading.Event()

    def stop() -> bool:
        asked.set()
        return True

    said: list[str] = []
    with ShutdownWatchdog(stop, said.append, grace_seconds=60):
        assert asked.wait(timeout=60)
    assert said == []


@pytest.mark.parametrize(
    ("saved", "ended"), [("stopped at step 3", [("stopped at step 3", 1)]), (None, [])], ids=["computing", "over"]
)
def test_a_training_that_does_not_end_is_saved_and_ended(
    monkeypatch: pytest.MonkeyPatch, saved: str | None, ended: list[tuple[str, int]]
) -> None:
    said: list[str] = []
    ends: list[tuple[str, int]] = []
    has_saved = threading.Event()
    monkeypatch.setattr(stopping.os, "_exit", lambda code: ends.append((said[-1], code)))

    def save() -> str | None:
        has_saved.set()
        return saved

    with ShutdownWatchdog(lambda: True, said.append, grace_seconds=0.01) as watchdog:
        watchdog.offer_save(save)
        assert has_saved.wait(timeout=60)
    assert ends == ended


# A mutex that is locked twice, like torch's decompositions of large matrices, does not return to Python: no handler of
# a signal runs meanwhile.
ENDLESS = """
import ctypes
import sys
from booru_embed_core.training import loop
from booru_embed_dagster.training.worker import main

job, function, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
real = getattr(loop, function)

def endless(run, *rest):
    if run.step < step:
        return real(run, *rest)
    print("began", flush=True)
    lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
    lock(mutex)
    lock(mutex)

setattr(loop, function, endless)
sys.exit(main([job]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("function", "step"), [("compute_step", 5), ("validate", 15)])
def test_a_stop_saves_and_ends_a_training_whose_step_or_validation_does_not_end(
    built: tuple[Project, dg.ExecuteInProcessResult], tmp_path: Path, function: str, step: int
) -> None:
    project = built[0]
    settings = load_settings(project.settings_file)
    (tmp_path / "out").mkdir()
    job = Job(
        packed_path=project.warehouse.current("packed_tokens").path / PACKED_FILE,
        vocab_dir=project.warehouse.current("vocab").path,
        work_dir=tmp_path / "work",
        out_dir=tmp_path / "out",
        model=settings.model,
        training=settings.training.model_copy(update={"num_epochs": 2, "initial_vectors": "random"}),
    )
    (tmp_path / "job.json").write_text(job.model_dump_json(exclude_none=True), encoding="utf-8")
    arguments = [sys.executable, "-c", ENDLESS, str(tmp_path / "job.json"), function, str(step)]
    environment = {**os.environ, **project.environment()}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    (state,) = (tmp_path / "work").glob("state-*.pt")
    stopped_at = int(state.stem.removeprefix("state-"))
    reason = (tmp_path / "out" / FAILURE_FILE).read_text(encoding="utf-8")
    assert reason.startswith(f"stopped at step {stopped_at} of ")
    assert reason.endswith(f"; the state is in {tmp_path / 'work'}")
    assert errors.splitlines()[-1] == f"training: {reason}"
    assert stopped_at >= step
    assert run_job(job, lambda _: None, lambda _: None, lambda: False) == 0
    log = (tmp_path / "out" / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in log]
    assert steps == sorted(set(steps))
    assert len([line for line in log if "validation" in json.loads(line)]) == 2
