"""A training launched and terminated as the buttons of Dagster's UI do it, with all of `dagster dev` running."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import pytest

from booru_embed_dagster.automation.runs import sign_of_life
from tests.dagster.automation.test_runs import begin, sign
from tests.dagster.project_helpers import Project, failure
from tests.dagster.server_helpers import Server, dagster_dev, processes_of
from tests.dagster.training.fault_helpers import WAIT, python_path, ranks_of
from tests.dagster.training.test_worker import wait_for_log

_Answer = TypeVar("_Answer")

LAUNCH = """
mutation($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector, runConfigData: {}}) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}"""
TERMINATE = """
mutation($run: String!) { terminateRun(runId: $run) { __typename ... on PythonError { message } } }"""
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
TIMEOUT_SECONDS = 240
POLL_SECONDS = 0.3
NUM_EPOCHS = 5


def ask(server: Server, query: str, **variables: object) -> dict[str, Any]:
    """The one answer to `query`."""
    (answer,) = server.graphql(query, **variables).values()
    return dict(answer)


def launch(server: Server, asset: str) -> str:
    selector = {
        "repositoryLocationName": "booru_embed",
        "repositoryName": "__repository__",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [{"path": [asset]}],
    }
    answer = ask(server, LAUNCH, selector=selector)
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def terminate(server: Server, run: str) -> None:
    answer = ask(server, TERMINATE, run=run)
    assert answer["__typename"] == "TerminateRunSuccess", answer


def run_status(server: Server, run: str) -> str:
    return str(ask(server, STATUS, run=run)["status"])


def until(look: Callable[[], _Answer], wanted: Callable[[_Answer], bool] = bool) -> _Answer:
    """What `look` sees once it is `wanted`."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while not wanted(seen := look()):
        assert time.monotonic() < end, f"still {seen!r} after {TIMEOUT_SECONDS} seconds"
        time.sleep(POLL_SECONDS)
    return seen


def step_of(state: Path) -> int:
    return int(state.stem.removeprefix("state-"))


@pytest.fixture(scope="module")
def served(
    built: tuple[Project, dg.ExecuteInProcessResult], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Project, Server]]:
    """A project, whose settings each test sets, and the server that works on it; its trainings take long."""
    folder = tmp_path_factory.mktemp("served")
    project = built[0].copy_to(folder / "copy")
    path = python_path(folder / "site", [*ranks_of(1), *ranks_of(2)], "run.step > 10", WAIT)  # the log begins with 10
    with dagster_dev(project, {"PYTHONPATH": path}) as server:
        yield project, server


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.usefixtures("light")
def test_a_run_terminated_in_the_ui_ends_every_rank_and_the_next_one_goes_on(
    served: tuple[Project, Server], num_processes: int
) -> None:
    project, server = served
    project.set(num_epochs=NUM_EPOCHS, trunk="deepsets", num_processes=num_processes, initial_vectors="random")
    run = launch(server, "checkpoint")
    work = wait_for_log(project)
    # One that trains; or the one that Dagster started, torchrun and its ranks.
    trainers = processes_of(project, "booru_embed_dagster.training.worker")
    assert len(trainers) == (1 if num_processes == 1 else num_processes + 2)
    started = time.monotonic()
    terminate(server, run)
    until(lambda: trainers & processes_of(project), lambda left: not left)
    ended_seconds = time.monotonic() - started
    status = until(lambda: run_status(server, run), lambda status: status not in {"STARTED", "CANCELING"})
    canceled_seconds = time.monotonic() - started
    sys.stdout.write(
        f"{num_processes} processes: all ended {ended_seconds:.1f} s after the termination, run {status} after "
        f"{canceled_seconds:.1f} s\n"
    )
    assert status == "CANCELED"
    assert processes_of(project, "booru_embed_dagster.training.worker") == set()
    assert max(step_of(state) for state in work.glob("state-*.pt")) > 0
    saved = (work / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    assert saved

    project.set(num_epochs=NUM_EPOCHS, trunk="deepsets", initial_vectors="random")
    result = project.materialize("checkpoint")
    assert result.success
    # Speeds are in the log: lines that are the same were not written again.
    log = (project.warehouse.current("checkpoint").path / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in log[: len(saved)]] == [json.loads(line) for line in saved]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_run_at_a_time_computes_on_the_gpu_and_none_shares_a_folder(served: tuple[Project, Server]) -> None:
    project, server = served
    project.set(num_epochs=10_000, trunk="deepsets", initial_vectors="random")
    training = launch(server, "checkpoint")
    wait_for_log(project)
    waiting, other = launch(server, "tag_embeddings"), launch(server, "caption_lengths")
    until(lambda: run_status(server, other), lambda status: status == "SUCCESS")
    # Launched before the other one, so it is the pool that it waits for.
    assert (run_status(server, training), run_status(server, waiting)) == ("STARTED", "QUEUED")
    # What is started from the command line passes the queue by; the work folder is kept for the first all the same.
    assert "another process works on these inputs" in failure(project.materialize("checkpoint"))
    terminate(server, training)
    assert until(lambda: run_status(server, waiting), lambda status: status != "QUEUED") != "FAILURE"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_daemon_ends_a_run_whose_process_is_gone(served: tuple[Project, Server]) -> None:
    project, server = served
    with project.instance() as instance:
        dead, lives = begin(instance), begin(instance)
        sign(instance, dead)
        sign_of_life(instance, lives.run_id)
        until(lambda: run_status(server, dead.run_id), lambda status: status != "STARTED")
        assert [run_status(server, run.run_id) for run in (dead, lives)] == ["FAILURE", "STARTED"]
        instance.report_run_canceled(lives)
