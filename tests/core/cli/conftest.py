"""The embedder as the commands load it."""

from __future__ import annotations

import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from tests.core.model_helpers import Trained


@pytest.fixture(scope="session")
def embedder(trained: Trained) -> BooruEmbedder:
    return BooruEmbedder.load(trained.checkpoint, backend="numpy")
