"""The checkpoint trained on the tiny corpus, and a search of its posts."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_helpers import Trained, trained
from search_helpers import searched

from booru_embed_core.serving.embedder import BooruEmbedder
from booru_embed_core.serving.search import PostSearch


@pytest.fixture(scope="session", name="trained")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture(scope="session")
def search_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture(scope="session")
def post_search(search_folder: Path) -> PostSearch:
    return PostSearch.open(search_folder)


@pytest.fixture(scope="session")
def search_embedder(trained: Trained) -> BooruEmbedder:
    return BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
