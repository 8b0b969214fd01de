"""The checkpoint of the core's tests, trained once for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.core.model_helpers import Trained


@pytest.fixture(scope="session", name="trained")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from tests.core.model_helpers import trained

    return trained(tmp_path_factory.getbasetemp() / "tiny")
