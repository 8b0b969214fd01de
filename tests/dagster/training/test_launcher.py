"""The training process as its asset sees it: its output, how it is ended, and why it ended."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import dagster as dg
import pytest

from booru_embed_dagster import resources
from booru_embed_dagster.training import launcher
from booru_embed_dagster.training.launcher import (
    TAIL_LINES,
    TrainingFailedError,
    echoed,
    report_of,
    run_to_end,
    why_it_ended,
)
from booru_embed_dagster.training.reasons import CRASH_FILE, FAILURE_FILE, REPORT
from tests.dagster.project_helpers import Project, failure
from tests.dagster.training.fault_helpers import python_path, ranks_of

Built = tuple[Project, dg.ExecuteInProcessResult]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    file = tmp_path / "output.log"
    file.write_text("".join(f"line {number}\n" for number in range(100)))
    return file


def test_what_is_written_is_echoed_to_the_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "output.log"
    with file.open("w") as sink, echoed(file):
        sink.write("first\n")
        sink.flush()
        sink.write("läst")
        sink.flush()
    assert capsys.readouterr().err == "first\nläst"


def test_a_reason_stands_alone(tmp_path: Path, output: Path) -> None:
    for file in (FAILURE_FILE, CRASH_FILE, "lost-0.txt"):
        (tmp_path / file).write_text(f"said in {file}")
    assert why_it_ended(tmp_path, output, 1) == f"said in {FAILURE_FILE}"


def test_a_crash_is_its_last_line_and_the_end_of_its_traceback(tmp_path: Path, output: Path) -> None:
    trace = [f"frame {number}" for number in range(50)] + ["KeyError: 'nobody'"]
    (tmp_path / CRASH_FILE).write_text("\n".join(trace) + "\n")
    (tmp_path / "lost-0.txt").write_text("rank 0 of 2: another rank ended")
    assert why_it_ended(tmp_path, output, 1).splitlines() == ["training crashed: KeyError: 'nobody'", *trace[-20:]]


def test_an_empty_file_is_no_reason(tmp_path: Path, output: Path) -> None:
    for file in (FAILURE_FILE, CRASH_FILE):
        (tmp_path / file).touch()
    assert why_it_ended(tmp_path, output, 1).startswith("training ended with exit code 1 and left no reason; its last")
    (tmp_path / "lost-0.txt").touch()
    assert why_it_ended(tmp_path, output, 1).startswith("the ranks lost each other\n")


def test_the_process_gets_no_variables_of_another_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "badhost", "PET_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launcher, "COMMAND", (sys.executable, "-c", "import os; print(sorted(os.environ))"))
    with (tmp_path / "output.log").open("wb") as sink:
        assert run_to_end({"ITS_OWN": "1"}, sink, tmp_path) == (0, {})
    names = (tmp_path / "output.log").read_text()
    assert "'ITS_OWN'" in names
    assert "'PATH'" in names
    assert not any(repr(name) in names for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "PET_NNODES"))


def test_a_reason_arrives_though_no_file_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from pathlib import Path; from booru_embed_dagster.training.reasons import leave_reason;"
        f"leave_reason(Path({str(tmp_path / 'nowhere')!r}), 'failure.txt', 'the disk is fl\u00fcll' + 'l' * 9000, 0)"
    )
    monkeypatch.setattr(launcher, "COMMAND", (sys.executable, "-c", f"{code}; raise SystemExit(1)"))
    with (tmp_path / "output.log").open("wb") as sink:
        ended, sent = run_to_end({}, sink, tmp_path)
    assert (ended, len(sent["failure.txt"])) == (1, 2000)
    assert why_it_ended(tmp_path / "nowhere", tmp_path / "output.log", ended, sent) == sent["failure.txt"]
    assert why_it_ended(tmp_path / "nowhere", tmp_path / "gone.log", 1).endswith(
        "gone.log is empty; look at the system's log"
    )


def test_a_report_that_pipes_could_not_write_is_taken_from_the_pipe() -> None:
    assert report_of([{"num_steps": 3}], {}) == report_of([], {REPORT: '{"num_steps": 3}'}) == {"num_steps": 3}
    with pytest.raises(TrainingFailedError, match="its report was lost; free some space in "):
        report_of([], {FAILURE_FILE: "not read when the exit code is 0"})


def test_output_is_echoed_to_a_stderr_that_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "output.log"
    for stream in (None, io.TextIOWrapper(io.BytesIO(), write_through=True)):
        monkeypatch.setattr(sys, "stderr", stream)
        if stream is not None:
            stream.buffer.close()
        with file.open("w") as sink, echoed(file):
            sink.write("first\n")
        monkeypatch.undo()


def test_a_crash_that_was_sent_is_read_like_one_on_disk(tmp_path: Path, output: Path) -> None:
    told = why_it_ended(tmp_path, output, 1, {CRASH_FILE: "frame 1\nKeyError: 'nobody'"})
    assert told.splitlines() == ["training crashed: KeyError: 'nobody'", "frame 1", "KeyError: 'nobody'"]


@pytest.mark.parametrize(
    ("lost", "code", "reason"),
    [
        ("rank 0 of 2: another rank ended", -signal.SIGKILL, r"training was killed \(SIGKILL\), most likely .*"),
        ("rank 0 of 2: another rank ended", 1, r"rank 0 of 2: another rank ended"),
        (
            "",
            -signal.SIGKILL,
            r"training was killed \(SIGKILL\), most likely because memory ran out: .*last saved state",
        ),
        ("", -signal.SIGSEGV, r"training ended by SIGSEGV and left no reason; its last lines follow"),
        ("", 3, r"training ended with exit code 3 and left no reason; its last lines follow"),
    ],
)
def test_what_left_no_reason_is_explained_by_its_last_lines(
    tmp_path: Path, output: Path, lost: str, code: int, reason: str
) -> None:
    if lost:
        (tmp_path / "lost-0.txt").write_text(lost)
    first, *tail = why_it_ended(tmp_path, output, code).splitlines()
    assert re.fullmatch(reason, first)
    assert tail == [f"line {number}" for number in range(100 - TAIL_LINES, 100)]


def test_a_killed_process_was_not_stopped_whatever_its_ranks_say(tmp_path: Path, output: Path) -> None:
    (tmp_path / FAILURE_FILE).write_text("stopped at step 19 of 540")
    assert why_it_ended(tmp_path, output, -signal.SIGKILL).startswith("training was killed (SIGKILL)")


def test_no_more_than_the_end_of_long_output_is_read(tmp_path: Path) -> None:
    file = tmp_path / "output.log"
    file.write_bytes(b"x" * 1_000_000 + b"\xff\nend\n")
    assert why_it_ended(tmp_path, file, 1).splitlines()[-1] == "end"
    assert len(why_it_ended(tmp_path, file, 1)) < 20_000


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(99)"


SLOW = """
import os, signal, sys, time

def save(*_):
    with open("state.partial", "w") as file:
        for number in range(10):
            time.sleep(0.2)
            print(number, end="", file=file, flush=True)
    os.rename("state.partial", "state-000000001.pt")
    sys.exit(1)

signal.signal(signal.SIGTERM, save)
print("on", flush=True)
time.sleep(99)
"""


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> int:
    """The exit code of the training `code`, after Ctrl-C in the process that waits for it."""
    monkeypatch.setattr(launcher, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(launcher, "END_SECONDS", 1.0)
    process: list[subprocess.Popen[bytes]] = []
    started = subprocess.Popen
    monkeypatch.setattr(launcher.subprocess, "Popen", lambda *a, **k: process.append(started(*a, **k)) or process[0])
    file = tmp_path / "output.log"

    def interrupt() -> None:
        while not file.stat().st_size:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    file.touch()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with file.open("wb") as sink, pytest.raises(KeyboardInterrupt):
        run_to_end({}, sink, tmp_path)
    thread.join()
    return process[0].returncode


@pytest.mark.usefixtures("_process_hooks")
@pytest.mark.parametrize(
    ("code", "saved", "exit_code"), [(STUBBORN, "", -signal.SIGKILL), (SLOW, "0123456789", 1)], ids=["stuck", "slow"]
)
def test_a_stopped_training_is_killed_when_nothing_of_its_state_grows_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, saved: str, exit_code: int
) -> None:
    """The slow disk takes twice the seconds that a training may write nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state.partial").touch()
    assert interrupted(tmp_path, monkeypatch, code) == exit_code
    state = tmp_path / "state-000000001.pt"
    assert (state.read_text() if state.exists() else "") == saved


def test_what_a_killed_process_leaves_behind_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, subprocess; print(subprocess.Popen(['sleep', '99']).pid, flush=True); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(launcher, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(launcher, "END_SECONDS", 1.0)  # where nobody buries orphans their group stays
    with (tmp_path / "output.log").open("wb") as sink:
        assert run_to_end({}, sink, tmp_path) == (-signal.SIGKILL, {})
    stat = Path("/proc", (tmp_path / "output.log").read_text().strip(), "stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


KILL = "os.kill(os.getpid(), 9)"
RAISE = "raise TypeError('no such thing')"
NOT_FINITE = "raise NonFiniteLossError('step 25: loss is nan', [])"
DISCONNECT = """once.touch()
            for descriptor in os.listdir("/proc/self/fd"):
                try:
                    connection = socket.socket(fileno=os.dup(int(descriptor)))
                    if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getpeername():
                        connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass"""


def train_with_fault(
    built: Built, folder: Path, num_processes: int, action: str, is_in_all: bool = False
) -> dg.ExecuteInProcessResult:
    """A run of `checkpoint` in a copy of `built` in `folder`, with a fault in the last rank or in all of them."""
    project = built[0].copy_to(folder)
    project.set(num_epochs=4, trunk="deepsets", num_processes=num_processes, initial_vectors="random")
    ranks = ranks_of(num_processes)
    path = python_path(folder / "site", ranks if is_in_all else ranks[-1:], "run.step == 25", action)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        return project.materialize("checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize(
    ("action", "reason", "in_tail"),
    [
        (KILL, r"training was killed \(SIGKILL\)|rank 0 of 2: another rank ended", ""),
        (RAISE, r"training crashed: TypeError: no such thing", "TypeError: no such thing"),
        (NOT_FINITE, r"step 25: loss is nan; the state before it is in .*failed\.pt", ""),
    ],
    ids=["killed", "crashed", "not-finite"],
)
def test_a_crash_fails_the_step_with_its_reason_and_its_last_lines(
    built: Built, tmp_path: Path, num_processes: int, action: str, reason: str, in_tail: str
) -> None:
    result = train_with_fault(built, tmp_path / "copy", num_processes, action, is_in_all=action == NOT_FINITE)
    assert not result.success
    first, *tail = failure(result).splitlines()
    assert re.match(reason, first)
    assert len(tail) <= TAIL_LINES
    if action == KILL and num_processes == 2:
        in_tail = "SIGKILL"
    assert in_tail in "\n".join(tail)
    assert result.retry_attempts_for_node("checkpoint") == 0


@pytest.mark.slow
def test_ranks_that_lose_their_connection_are_started_again_and_go_on(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resources, "RETRY_SECONDS", 0.1)
    result = train_with_fault(built, tmp_path / "copy", 2, DISCONNECT)
    assert result.success
    assert result.retry_attempts_for_node("checkpoint") == 1
    (retry,) = [event for event in result.all_events if event.is_step_up_for_retry]
    assert "another rank ended or fell silent" in str(retry.event_specific_data)
    steps = logged_steps(capfd.readouterr().err)
    assert min(steps) < 18 < steps[-1], "the second attempt went on from the state after the first epoch"
    assert steps == sorted(steps)
    check_curves(result)


@pytest.mark.slow
def test_steps_are_logged_as_they_come_and_drawn_at_the_end(
    built: Built, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    project.set(num_epochs=2, trunk="deepsets")
    result = project.materialize("checkpoint")
    assert logged_steps(capfd.readouterr().err)[-1] == 36
    check_curves(result)


def logged_steps(errors: str) -> list[int]:
    """The steps of the lines with loss and time to come that a run wrote."""
    return [int(step) for step in re.findall(r" step (\d+)/\d+  epoch .*loss .* tokens/s  ETA [\d:]+\n", errors)]


def check_curves(result: dg.ExecuteInProcessResult) -> None:
    """Looks for the picture of the curves among what `checkpoint` shows."""
    (shown,) = result.asset_materializations_for_node("checkpoint")
    assert "data:image/png;base64," in str(shown.metadata["plot"].value)
