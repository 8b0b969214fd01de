"""The parameters that Muon updates, the size of its steps, and the round trip of its state."""

from __future__ import annotations

import copy

import pytest
import torch

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.checkpoint import encoder_config
from booru_embed_core.training.optimizer import Optimizer
from tests.core.model_helpers import Corpus, model_settings, training_settings


@pytest.fixture
def model(corpus: Corpus) -> SetEncoder:
    torch.manual_seed(3)
    return SetEncoder(encoder_config(Vocab.load(corpus.vocab_dir), model_settings(width=16, embedding_dim=16)))


def moved(model: SetEncoder, optimizer: Optimizer, seed: int) -> dict[str, torch.Tensor]:
    """The change of each parameter in a step with random gradients."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step(0.01)
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def test_all_parameters_learn_once(model: SetEncoder) -> None:
    for name in ("muon", "adamw"):
        optimizer = Optimizer(model, training_settings(optimizer=name))
        assert sorted(map(id, optimizer.parameters)) == sorted(map(id, model.parameters()))


def test_muon_moves_a_matrix_alike_in_all_directions_and_adamw_by_the_rate(model: SetEncoder) -> None:
    steps = moved(model, Optimizer(model, training_settings(optimizer="muon", weight_decay=0.0)), seed=5)
    matrix = steps["pool.attention.query.weight"]
    strengths = torch.linalg.svdvals(matrix)
    assert strengths.min() > 0.5 * strengths.max()
    assert matrix.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.15)
    for name in ("tokens.weight", "tag_bias", "rating_head.weight"):
        assert steps[name].abs().mean().item() == pytest.approx(0.01, rel=0.05), name


def test_adamw_alone_has_no_such_step(model: SetEncoder) -> None:
    steps = moved(model, Optimizer(model, training_settings(optimizer="adamw", weight_decay=0.0)), seed=5)
    assert steps["pool.attention.query.weight"].abs().mean().item() == pytest.approx(0.01, rel=0.05)


def test_its_state_comes_back(model: SetEncoder) -> None:
    settings = training_settings()
    optimizer = Optimizer(model, settings)
    moved(model, optimizer, seed=5)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    wanted = moved(model, optimizer, seed=6)
    model.load_state_dict(weights)
    again = Optimizer(model, settings)
    again.load_state_dict(state)
    assert all(torch.equal(step, wanted[name]) for name, step in moved(model, again, seed=6).items())


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_decay_shrinks_matrices_alone(model: SetEncoder, name: str) -> None:
    """Without gradients only decay changes parameters: tag vectors, categories, biases and scales stay."""
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
            p.grad = torch.zeros_like(p)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    Optimizer(model, training_settings(optimizer=name, weight_decay=0.5)).step(0.1)
    kept = {"tokens.weight", "categories.weight", "tag_bias"} | {name for name in before if name.endswith("log_scale")}
    assert len(kept) > 3
    for name, p in model.named_parameters():
        share = 1.0 if name in kept else 1 - 0.5 * 0.1
        torch.testing.assert_close(p.detach(), share * before[name], msg=name)
