"""The tiny corpus, and the checkpoint trained on it."""

from __future__ import annotations

import pytest
from model_helpers import Corpus, Trained, corpus, trained


@pytest.fixture(scope="session", name="corpus")
def corpus_fixture(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture(scope="session", name="trained")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.getbasetemp() / "tiny")
