"""A project to write to, and one in which everything has been materialized."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

from booru_embed_core.filesystem import locked_folder
from tests.dagster.light_helpers import lighten
from tests.dagster.postgres_helpers import INSTALLATIONS, REQUIRE_VARIABLE, Postgres, find_programs, running_postgres
from tests.dagster.project_helpers import Project, make_project, read_result

Built = tuple[Project, dg.ExecuteInProcessResult]
WORKER_VARIABLE = "PYTEST_XDIST_WORKER"


@pytest.fixture(scope="session", autouse=True)
def _engines() -> Iterator[None]:
    """One SQLAlchemy engine for each SQLite file: Dagster makes one per query, which compiles its statement anew."""
    engines: dict[str, Any] = {}
    made = sqlite_event_log.create_engine

    def create_engine(address: str, **options: Any) -> Any:
        """What `create_engine` returned for `address` before; its pool keeps no connection open."""
        if address not in engines:
            engines[address] = made(address, **options)
        return engines[address]

    with pytest.MonkeyPatch.context() as patch:
        for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
            patch.setattr(module, "create_engine", create_engine)
        yield


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in which nothing has been materialized."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A project in which everything has been observed and materialized, with that run; to be read, never written.

    The processes of one test session share it: the first one that asks makes it.
    """
    root = tmp_path_factory.getbasetemp()
    if WORKER_VARIABLE in os.environ:
        root = root.parent
    home = root / "built"
    home.mkdir(exist_ok=True)
    made, run = Project(home / "project"), home / "run"
    with locked_folder(home, wait=True):
        if not run.exists():
            make_project(made.folder)
            with made.instance() as instance:
                run.write_text(made.materialize('key:"*"', instance).run_id)
    with made.instance() as instance:
        return made, read_result(instance, run.read_text())


@pytest.fixture
def settled(built: Built) -> Project:
    """A project in which everything is fresh; to be copied."""
    assert built[1].success
    return built[0]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test train in this process and draw nothing."""
    lighten(monkeypatch)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL, of which a test takes a database of its own."""
    programs = find_programs()
    missing = [f"PostgreSQL (no {INSTALLATIONS}/*/bin/initdb)"] * (programs is None)
    missing += ["dagster-postgres"] * (importlib.util.find_spec("dagster_postgres") is None)
    if programs is None or missing:
        message = f"{' and '.join(missing)} not installed"
        if os.environ.get(REQUIRE_VARIABLE):
            pytest.fail(f"{message}, and {REQUIRE_VARIABLE} is set")
        pytest.skip(message)
    with running_postgres(programs) as running:
        yield running


@pytest.fixture(params=["files", "postgres"])
def stored(request: pytest.FixtureRequest, settled: Project, tmp_path: Path) -> Project:
    """A copy of `settled`, whose instance is in files, and then in PostgreSQL."""
    project = settled.copy_to(tmp_path / "copy")
    if request.param == "files":
        return project
    running: Postgres = request.getfixturevalue("postgres")
    project = replace(project, database=running.new_database())
    with project.instance() as instance, pytest.MonkeyPatch.context() as patch:
        lighten(patch)
        assert project.materialize('key:"*"', instance).success
    return project


@pytest.fixture
def _process_hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves signals, and what is done with an uncaught exception, as they were."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)
