"""The BigQuery emulator, for the tests of both packages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from emulator_helpers import Emulator


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """A running emulator without tables."""
    from emulator_helpers import ENVIRONMENT, REQUIRE_VARIABLE, running_emulator  # needs Google's client

    if not (ENVIRONMENT / ".installed").exists():
        if os.environ.get(REQUIRE_VARIABLE):
            pytest.fail(f"{ENVIRONMENT} is missing and {REQUIRE_VARIABLE} is set; run make emulator")
        pytest.skip(f"{ENVIRONMENT} is missing; run make emulator")
    with running_emulator(tmp_path_factory.mktemp("emulator") / "emulator.log") as running:
        yield running
