"""The training process: its job, its signals, its exit codes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR, encode_param

from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.training import loop
from booru_embed_core.training.distributed import RankLostError
from booru_embed_core.training.progress import Progress
from booru_embed_dagster.training import stopping, worker
from booru_embed_dagster.training.reasons import CRASH_FILE, FAILURE_FILE, RESERVED_BYTES
from booru_embed_dagster.training.worker import Job, ProgressLog, main, run_job, start_ranks
from booru_embed_dagster.warehouse.warehouse import lock_folder
from tests.dagster.light_helpers import lighten
from tests.dagster.project_helpers import Project
from tests.dagster.training.fault_helpers import WAIT, python_path, ranks_of

pytestmark = pytest.mark.usefixtures("_process_hooks")


@dataclass
class Report:
    """As much of training's report as this process needs."""

    num_steps: int


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "out").mkdir()
    return Job(
        packed_path=tmp_path / "tokens.safetensors",
        vocab_dir=tmp_path / "vocab",
        work_dir=tmp_path / "work" / "key",
        out_dir=tmp_path / "out",
        model=ModelSettings(),
        training=TrainingSettings(),
    )


def set_rank(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """Gives this process the variables of one of three ranks."""
    for name, value in {"RANK": rank, "WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}.items():
        monkeypatch.setenv(name, str(value))


def progress(**values: Any) -> Progress:
    every: dict[str, Any] = {
        "step": 1,
        "num_steps": 9,
        "epoch": 0.1,
        "loss": 2.5,
        "terms": {},
        "learning_rate": 0.1,
        "tokens_per_second": 5.0,
        "eta_seconds": 1.0,
    }
    return Progress(**{**every, **values})


def test_a_job_survives_json(job: Job) -> None:
    assert Job.model_validate(json.loads(json.dumps(job.model_dump(mode="json")))) == job


def test_progress_is_logged_at_intervals_and_every_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 2.0, 6.0, 7.0])
    monkeypatch.setattr(worker.time, "monotonic", lambda: next(times))
    lines: list[str] = []
    log = ProgressLog(lines.append)
    for step in range(5):
        log(progress(step=step, validation={"loss": 1.5} if step == 2 else None))
    assert [line.split()[1] for line in lines] == ["0/9", "2/9", "4/9"]
    assert "validation loss 1.5" in lines[1]


def test_a_job_that_succeeds_delivers_its_report(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(*arguments: Any) -> Report:
        assert arguments[:6] == (job.packed_path, job.vocab_dir, job.work_dir, job.out_dir, job.model, job.training)
        arguments[6](progress())
        assert not arguments[7]()
        return Report(num_steps=9)

    monkeypatch.setattr(loop, "train", fake)
    lines: list[str] = []
    delivered: list[dict[str, Any]] = []
    assert run_job(job, lines.append, delivered.append, lambda: False) == 0
    assert delivered == [{"num_steps": 9}]
    assert len(lines) == 1
    assert not (job.out_dir / FAILURE_FILE).exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory ran out ("),
        (MemoryError(), "memory ran out; "),
        (OSError(errno.EROFS, "Read-only file system", "/wh/state"), "/wh/state: Read-only file system; mount it for"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_fault_of_the_machine_is_a_reason_of_one_line(
    job: Job, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fake(*_: Any) -> Report:
        raise error

    monkeypatch.setattr(loop, "train", fake)
    assert run_job(job, lambda _: None, lambda _: None, lambda: False) == 1
    told = (job.out_dir / FAILURE_FILE).read_text()
    assert told.startswith(line)
    assert "\n" not in told
    assert ("lower [training] batch_posts" in told) == line.startswith("memory")


def test_what_is_no_job_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.json").write_text('{"packed_path": 3}')
    (tmp_path / "list.json").write_text("[3]")
    (tmp_path / "stage.json").write_text('{"stage": "cooking"}')
    for name, reason in (
        ("odd.json", "validation errors for"),
        ("list.json", "validation error for"),
        ("stage.json", "validation errors for"),
        ("none.json", "No such file or directory"),
    ):
        assert worker.main([str(tmp_path / name)]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"training: {tmp_path / name}: not a job (")
        assert reason in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("no number; lower it"), loop.TrainingInterrupted("stopped at step 3")])
def test_a_job_that_fails_leaves_its_reason(job: Job, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fake(*_: Any) -> Report:
        raise error

    monkeypatch.setattr(loop, "train", fake)
    delivered: list[dict[str, Any]] = []
    assert run_job(job, lambda _: None, delivered.append, lambda: False) == 1
    assert (job.out_dir / FAILURE_FILE).read_text() == str(error)
    assert delivered == []


def test_two_trainings_never_share_a_work_folder(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("it must not start"))
    job.work_dir.mkdir(parents=True)
    with lock_folder(job.work_dir):
        assert run_job(job, lambda _: None, lambda _: None, lambda: False) == 1
    assert "another process works on these inputs" in (job.out_dir / FAILURE_FILE).read_text()


def test_a_rank_that_lost_the_others_says_so_beside_the_reason(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: Any) -> Report:
        raise RankLostError("rank 1 of 2: another rank ended")

    monkeypatch.setattr(loop, "train", lose)
    monkeypatch.setenv("RANK", "1")
    assert run_job(job, lambda _: None, lambda _: None, lambda: False) == 1
    assert (job.out_dir / "lost-1.txt").read_text() == "rank 1 of 2: another rank ended"
    assert not (job.out_dir / FAILURE_FILE).exists()


@pytest.mark.parametrize(
    ("left", "code"),
    [
        (["lost-0.txt", "lost-1.txt"], os.EX_TEMPFAIL),
        (["lost-0.txt"], 1),  # the other was killed
        (["lost-0.txt", "lost-1.txt", FAILURE_FILE], 1),
        (["lost-0.txt", "lost-1.txt", CRASH_FILE], 1),
        ([], 1),
    ],
)
def test_a_loss_of_the_ranks_is_told_from_all_else(
    job: Job, monkeypatch: pytest.MonkeyPatch, left: list[str], code: int
) -> None:
    several = job.model_copy(update={"training": TrainingSettings(num_processes=2)})
    monkeypatch.setattr(worker.sys, "executable", "false")  # in the place of torchrun: it fails at once
    for file in left:
        (job.out_dir / file).write_text("why")
    assert start_ranks(several, [], lambda: False) == code


def test_an_error_that_nobody_foresaw_leaves_its_traceback(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "run_job", lambda *_: 0)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    assert main([str(tmp_path / "job.json")]) == 0
    error = KeyError("nobody")
    sys.excepthook(KeyError, error, None)
    assert (job.out_dir / CRASH_FILE).read_text() == "KeyError: 'nobody'\n"
    assert "KeyError: 'nobody'" in capsys.readouterr().err


def test_variables_that_contradict_each_other_fail_in_one_line(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "run_job", lambda *_: pytest.fail("it must not start"))
    (tmp_path / "job.json").write_text(job.model_dump_json())
    for rank in ("3", "first"):
        set_rank(monkeypatch, 0)
        monkeypatch.setenv("RANK", rank)
        assert main([str(tmp_path / "job.json")]) == 1
        reason = (job.out_dir / FAILURE_FILE).read_text()
        assert reason.startswith(f"RANK={rank}, WORLD_SIZE=3, MASTER_ADDR=127.0.0.1, MASTER_PORT=29500: RANK is not ")
        assert capsys.readouterr().err == f"training: {reason}\n"


def test_torchrun_gets_no_variables_of_another_launcher(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    several = job.model_copy(update={"training": TrainingSettings(num_processes=2)})
    monkeypatch.setattr(worker.sys, "executable", "true")
    given: list[dict[str, str]] = []
    started = subprocess.Popen
    monkeypatch.setattr(worker.subprocess, "Popen", lambda command, env: given.append(env) or started(command, env=env))
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert start_ranks(several, [], lambda: False) == 0
    assert given[0]["PATH"] == os.environ["PATH"]
    assert not {"PET_NNODES", "WORLD_SIZE"} & given[0].keys()


def test_a_full_disk_is_told_in_the_room_reserved_for_it(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Report:
        assert [file.stat().st_size for file in job.out_dir.iterdir()] == [RESERVED_BYTES]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop, "train", fail)
    monkeypatch.setattr(sys.stderr, "write", fail_to_write)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    assert main([str(tmp_path / "job.json")]) == 1
    monkeypatch.undo()
    line = (job.out_dir / FAILURE_FILE).read_text()
    assert line.startswith(f"{tmp_path}: No space left on device (")
    assert " MB left, which is too little); free some space, or " in line
    assert line.endswith(
        "; free some space, or set [warehouse] path to a folder on another disk; then materialize checkpoint again: on "
        "the same disk it resumes from its last saved state"
    )
    assert [file.name for file in job.out_dir.iterdir()] == [FAILURE_FILE]


def fail_to_write(_: str) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_closed_to_this_user_is_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Report:
        raise PermissionError(errno.EACCES, "Permission denied", str(job.work_dir / "state.partial"))

    monkeypatch.setattr(loop, "train", fail)
    assert run_job(job, lambda _: None, lambda _: None, lambda: False) == 1
    line = (job.out_dir / FAILURE_FILE).read_text()
    assert line.startswith(
        f"{job.work_dir}/state.partial: Permission denied; give this user access (chmod, chown), or "
    )


def test_a_stop_that_cannot_save_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def save() -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    lines: list[str | None] = []

    def fake(*arguments: Any) -> Report:
        offered: list[Any] = []
        monkeypatch.setattr(stopping.ShutdownWatchdog, "offer_save", lambda _, save: offered.append(save))
        arguments[8](save)
        lines.append(offered[0]())
        return Report(num_steps=9)

    monkeypatch.setattr(loop, "train", fake)
    assert run_job(job, lambda _: None, lambda _: None, lambda: False) == 0
    assert str(lines[0]).startswith("stopped, but the state could not be saved: ")
    assert ": No space left on device (" in str(lines[0])
    assert list(job.out_dir.iterdir()) == []


def test_the_first_rank_alone_locks_the_work_folder(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "train", lambda *_: Report(num_steps=9))
    job.work_dir.mkdir(parents=True)
    with lock_folder(job.work_dir):
        monkeypatch.setenv("RANK", "1")
        assert run_job(job, lambda _: None, lambda _: None, lambda: False) == 0
        monkeypatch.setenv("RANK", "0")
        assert run_job(job, lambda _: None, lambda _: None, lambda: False) == 1


def test_several_processes_are_started_by_torchrun(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = job.model_copy(update={"training": TrainingSettings(num_processes=3)})
    (tmp_path / "job.json").write_text(several.model_dump_json(exclude_none=True))
    started: list[tuple[Job, list[str]]] = []
    monkeypatch.setattr(worker, "start_ranks", lambda job, arguments, _: started.append((job, arguments)) or 5)
    assert main([str(tmp_path / "job.json")]) == 5
    assert started == [(several, [str(tmp_path / "job.json")])]
    set_rank(monkeypatch, 1)  # torchrun's process trains, and starts no other
    monkeypatch.setattr(worker, "run_job", lambda *_: 0)
    assert main([str(tmp_path / "job.json")]) == 0
    assert len(started) == 1


@pytest.mark.parametrize("arguments", [[], ["one", "two"]])
def test_wrong_use_is_exit_code_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(DAGSTER_PIPES_CONTEXT_ENV_VAR, raising=False)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: python -m booru_embed_dagster.training.worker JOB.json")


def test_without_dagster_the_job_is_a_file(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Job] = []
    monkeypatch.setattr(worker, "run_job", lambda job, *_: ran.append(job) or 0)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    assert main([str(tmp_path / "job.json")]) == 0
    assert ran == [job]


def test_other_ranks_read_the_job_and_send_nothing(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Job] = []
    monkeypatch.setattr(worker, "run_job", lambda job, *_: ran.append(job) or 0)
    monkeypatch.setattr(worker, "open_dagster_pipes", lambda: pytest.fail("rank 0 alone talks to Dagster"))
    context = {"data": {"extras": job.model_dump(mode="json")}}
    monkeypatch.setenv(DAGSTER_PIPES_CONTEXT_ENV_VAR, encode_param(context))
    monkeypatch.setenv(DAGSTER_PIPES_MESSAGES_ENV_VAR, encode_param({"path": str(tmp_path / "messages")}))
    set_rank(monkeypatch, 1)
    assert main([]) == 0
    assert ran == [job]
    assert not (tmp_path / "messages").exists()


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_terminated_run_stops_training_and_the_next_one_goes_on(
    built: tuple[Project, dg.ExecuteInProcessResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_processes: int,
) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    project.set(num_epochs=5, trunk="deepsets", num_processes=num_processes, initial_vectors="random")
    path = python_path(tmp_path / "site", ranks_of(num_processes), "run.step > 10", WAIT)  # the log begins with 10
    environment = {**os.environ, **project.environment(), "PYTHONPATH": path}
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "booru_embed_dagster.definitions"]
    run = subprocess.Popen([*command, "--select", "checkpoint"], env=environment, stderr=subprocess.DEVNULL)
    work = wait_for_log(project)
    run.terminate()
    assert run.wait(timeout=60) != 0
    with lock_folder(work):  # the training process is gone, or it would hold this
        assert 1 <= len(list(work.glob("state-*.pt"))) <= 2
    saved = [json.loads(line) for line in (work / "training_log.jsonl").read_text().splitlines()]
    assert project.warehouse.current("checkpoint").version == built[0].warehouse.current("checkpoint").version
    # The number of processes is no part of what is trained.
    project.set(num_epochs=5, trunk="deepsets", num_processes=3 - num_processes, initial_vectors="random")
    if num_processes == 2:
        lighten(monkeypatch)
    result = project.materialize("checkpoint")
    assert result.success
    log = (project.warehouse.current("checkpoint").path / "training_log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in log][: len(saved)] == saved
    assert json.loads(log[-1])["step"] == json.loads(log[-1])["num_steps"]
    assert not work.exists()


def wait_for_log(project: Project) -> Path:
    """The work folder of the training, once it has logged a step."""
    for _ in range(4800):
        for file in (project.folder / "warehouse").glob("checkpoint/.work/*/training_log.jsonl"):
            if file.stat().st_size:
                return file.parent
        time.sleep(0.05)
    raise TimeoutError("training has not begun within four minutes")
