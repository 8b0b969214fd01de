"""The checkpoint trained on the tiny corpus."""

from __future__ import annotations

import pytest
from model_helpers import Trained, trained


@pytest.fixture(scope="session", name="trained")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.getbasetemp() / "tiny")
