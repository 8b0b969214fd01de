"""The tiny corpus, the checkpoint trained on it, and a bench for other trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_helpers import Corpus, Trained, corpus, trained
from training_helpers import Bench


@pytest.fixture(scope="session", name="corpus")
def corpus_fixture(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture(scope="session", name="trained")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture
def bench(corpus: Corpus, tmp_path: Path) -> Bench:
    return Bench(corpus, tmp_path)
