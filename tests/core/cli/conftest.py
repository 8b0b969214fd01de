"""The embedder as the commands load it, in a process that has not imported torch yet."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from booru_embed_core.embedder import backend
from booru_embed_core.embedder.embedder import BooruEmbedder
from tests.core.model_helpers import Trained


@pytest.fixture(autouse=True)
def torch_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a command's own process; only what chooses the backend believes it."""
    monkeypatch.setattr(backend, "sys", SimpleNamespace(modules={}))


@pytest.fixture(scope="session")
def embedder(trained: Trained) -> BooruEmbedder:
    return BooruEmbedder.load(trained.checkpoint, backend="numpy")
