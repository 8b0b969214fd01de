"""A project to be damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dagster.checks.check_helpers import Built
from tests.dagster.project_helpers import Project


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Project:
    """A project in which everything has been materialized, to be damaged."""
    return built[0].copy_to(tmp_path / "copy")
