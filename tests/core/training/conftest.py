"""Fixtures for trainings on the tiny corpus."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.core.model_helpers import Corpus, Trained
from tests.core.network_helpers import unseal
from tests.core.training.training_helpers import LOGGED_STEPS, RESUMED, Bench


@pytest.fixture
def bench(corpus: Corpus, tmp_path: Path) -> Bench:
    return Bench(corpus, tmp_path)


@pytest.fixture(scope="session")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, object]]]:
    """Weights and log of an uninterrupted training with `RESUMED`."""
    bench = Bench(corpus, tmp_path_factory.mktemp("whole"))
    bench.train("whole", RESUMED)
    assert [record["step"] for record in bench.log("whole")] == list(LOGGED_STEPS)
    return bench.weights_sha256("whole"), bench.log("whole")


@pytest.fixture
def copy(trained: Trained, tmp_path: Path) -> Path:
    """A copy of a checkpoint, for damaging."""
    return Path(shutil.copytree(trained.checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def unsealed(copy: Path) -> Path:
    """A copy of a checkpoint as builds before 0.3 wrote them, without checksums."""
    unseal(copy)
    return copy
