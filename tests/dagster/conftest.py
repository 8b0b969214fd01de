"""A project to write to, and one in which everything has been materialized."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from project_helpers import Project, make_project

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


@pytest.fixture
def _signal_handlers() -> Iterator[None]:
    """Leaves signals as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)
