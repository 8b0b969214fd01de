"""Interrupts, the BigQuery emulator, and a place without Google's credentials, for the tests of both packages."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.emulator_helpers import Emulator

# Workers fill the cores by themselves. More threads of OpenMP and OpenBLAS wait for each other in a loop, which took a
# third of the CPU time of tests that compute. NumPy and torch read this when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test asserts a wall time: Hypothesis does by default, and a busy machine then fails what is right.
settings.register_profile("untimed", parent=settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.load_profile("untimed")
settings.register_profile("fast", parent=settings.get_profile("untimed"), max_examples=20)  # make test-fast

SLOW_FIXTURES = {"browser", "built", "emulator", "postgres", "served", "trained_project", "wheel"}
"""They start servers and browsers, train or install: a test that asks for one is slow."""

# A suite that was started in the background (nohup, a shell's &) ignores interrupts, or the end of its terminal, and so
# would all processes that it starts and stops by one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow by its fixtures. Modules that take long come first: one that is begun last runs alone."""
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    lengths: dict[Path, tuple[float, bool]] = {}
    for item in items:
        timeout = item.get_closest_marker("timeout")
        length = (timeout.args[0] if timeout else 0, item.get_closest_marker("slow") is not None)
        lengths[item.path] = max(length, lengths.get(item.path, length))
    items.sort(key=lambda item: lengths[item.path], reverse=True)  # stable: modules stay whole


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """A running emulator without tables."""
    from tests.emulator_helpers import ENVIRONMENT, REQUIRE_VARIABLE, running_emulator  # needs Google's client

    if not (ENVIRONMENT / ".installed").exists():
        if os.environ.get(REQUIRE_VARIABLE):
            pytest.fail(f"{ENVIRONMENT} is missing and {REQUIRE_VARIABLE} is set; run make emulator")
        pytest.skip(f"{ENVIRONMENT} is missing; run make emulator")
    with running_emulator(tmp_path_factory.mktemp("emulator") / "emulator.log") as running:
        yield running


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials, and no machine in Google's cloud."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "CLOUDSDK_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    return home
