"""Scores of packed vectors do not depend on how many tags are packed at once, nor on how many threads ask."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from booru_embed_core.embedder import packed_scores
from booru_embed_core.embedder.packed_scores import PackedScores
from booru_embed_core.embedder.torch_network import _FP16_ENGINES
from booru_embed_core.export.formats import CheckpointSource
from booru_embed_core.model.encoder import SetEncoder
from tests.core.model_helpers import Trained

pytestmark = pytest.mark.skipif(
    torch.backends.quantized.engine not in _FP16_ENGINES, reason="torch multiplies by float32 here"
)


@pytest.fixture(scope="module")
def model(trained: Trained) -> SetEncoder:
    return CheckpointSource.open(trained.checkpoint).model


@pytest.fixture(scope="module")
def states(model: SetEncoder) -> Tensor:
    return torch.randn(5, model.config.settings.width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("at_once", [7, 24])
def test_scores_do_not_depend_on_how_many_tags_are_packed_at_once(
    model: SetEncoder, states: Tensor, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        expected = model.tag_scores(states)
        beside = PackedScores(model, lambda: None)(states)
        monkeypatch.setattr(packed_scores, "_PACKED_TAGS", at_once)
        monkeypatch.setattr(packed_scores, "_PACKED_WIDTH", 100)
        assert torch.equal(PackedScores(model, lambda: None)(states), beside)
    torch.testing.assert_close(beside, expected, atol=0.05, rtol=0.01)


def test_what_was_read_is_given_back_after_each_part(model: SetEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(packed_scores, "_PACKED_TAGS", 16)
    PackedScores(model, lambda: given_back.append(1))
    assert len(given_back) == -(-model.config.num_tags // 16) > 1


def test_many_threads_may_ask_at_once(model: SetEncoder, states: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_scores, "_PACKED_TAGS", 16)
    packed = PackedScores(model, lambda: None)

    @torch.inference_mode()
    def scores(row: int) -> Tensor:
        return packed(states[row : row + 1])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(scores, [row % len(states) for row in range(40)]))
    for row, one in enumerate(found):
        assert torch.equal(one, scores(row % len(states)))
