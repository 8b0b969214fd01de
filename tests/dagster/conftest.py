"""A project to write to, and one in which everything has been materialized."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from tests.dagster.postgres_helpers import INSTALLATIONS, REQUIRE_VARIABLE, Postgres, find_programs, running_postgres
from tests.dagster.project_helpers import Project, make_project

Built = tuple[Project, dg.ExecuteInProcessResult]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in which nothing has been materialized."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A project in which everything has been observed and materialized, with that run; to be read, never written."""
    made = make_project(tmp_path_factory.mktemp("built") / "project")
    with made.instance() as instance:
        return made, made.materialize('key:"*"', instance)


@pytest.fixture(scope="session")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of one epoch in which everything is up to date; to be copied."""
    made = make_project(tmp_path_factory.mktemp("settled") / "project")
    made.set(num_epochs=1)
    with made.instance() as instance:
        assert made.materialize('key:"*"', instance).success
    return made


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
    with project.instance() as instance:
        assert project.materialize('key:"*"', instance).success
    return project


@pytest.fixture
def _process_hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves signals, and what is done with an uncaught exception, as they were."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)
