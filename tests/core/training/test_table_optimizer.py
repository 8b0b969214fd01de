"""Rows that are updated when they are used end where dense AdamW ends."""

from __future__ import annotations

import pytest
import torch

from booru_embed_core.settings import TrainingSettings
from booru_embed_core.training.schedule import learning_rate
from booru_embed_core.training.table_optimizer import TableOptimizer

NUM_STEPS = 150
RATES = [learning_rate(step, NUM_STEPS, TrainingSettings()) for step in range(NUM_STEPS)]
BETAS = (0.9, 0.98)


def gradients(shape: tuple[int, ...], share: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The rows of each step and their gradients."""
    generator = torch.Generator().manual_seed(5)
    every = []
    for _ in range(NUM_STEPS):
        rows = (torch.rand(shape[0], generator=generator) < share).nonzero()[:, 0]
        every.append((rows, torch.randn(len(rows), *shape[1:], generator=generator)))
    return every


@pytest.mark.parametrize("shape", [(300, 8), (300,)])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_it_is_adamw(shape: tuple[int, ...], share: float) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    dense, table = start.clone().requires_grad_(), start.clone()
    adamw = torch.optim.AdamW([dense], betas=BETAS, weight_decay=0)
    lazy = TableOptimizer(table, RATES, BETAS)
    for step, (rows, gradient) in enumerate(gradients(shape, share)):
        dense.grad = torch.zeros_like(dense).index_copy(0, rows, gradient)
        adamw.param_groups[0]["lr"] = RATES[step]
        adamw.step()
        lazy.catch_up(rows, step)
        lazy.step(rows, gradient, step)
        if step == 20:
            assert torch.allclose(table[rows], dense.detach()[rows], atol=1e-5)
    lazy.catch_up_all(NUM_STEPS)
    moved = (dense.detach() - start).abs().mean()
    assert (table - dense.detach()).abs().mean() < 1e-4 * moved
    assert (table - dense.detach()).abs().max() < 2e-3 * moved


def test_to_catch_up_twice_is_to_catch_up_once_and_a_row_without_gradients_stays() -> None:
    table = torch.ones(4, 2)
    lazy = TableOptimizer(table, RATES, BETAS)
    lazy.step(torch.tensor([1, 2]), torch.ones(2, 2), 0)
    lazy.catch_up(torch.tensor([1]), 9)
    once = table.clone()
    lazy.catch_up(torch.tensor([1]), 9)
    assert torch.equal(table, once)
    lazy.catch_up_all(NUM_STEPS)
    assert torch.equal(table[[0, 3]], torch.ones(2, 2))
    assert torch.allclose(table[1], table[2], atol=1e-7)
    assert (table[1] < once[2]).all()


def test_its_state_resumes_in_the_same_bits() -> None:
    whole, table = torch.zeros(50, 3), torch.zeros(50, 3)
    first, second = TableOptimizer(whole, RATES, BETAS), TableOptimizer(table, RATES, BETAS)
    for step, (rows, gradient) in enumerate(gradients((50, 3), 0.3)):
        if step == 77:
            state = {name: tensor.clone() for name, tensor in second.state_dict().items()}
            second = TableOptimizer(table, RATES, BETAS)
            second.load_state_dict(state)
        for one in (first, second):
            one.catch_up(rows, step)
            one.step(rows, gradient, step)
    assert torch.equal(whole, table)
