"""Pooling of states: the values of a mean state are the mean of the values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from booru_embed_core.model.attention import SetLayout
from booru_embed_core.model.encoder import Attention, rms_norm
from booru_embed_core.model.pooled_states import pool, pool_states
from tests.core.model_helpers import model_settings

LENGTHS = [1, 1, 2, 3, 4, 5, 7, 8, 13, 13, 30, 61]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def layout_of(lengths: list[int], weights: Tensor | None = None) -> SetLayout:
    return SetLayout.build(torch.tensor(lengths), max(lengths), 2, "buckets", weights=weights)


def by_loop(queries: Tensor, keys: Tensor, states: Tensor, lengths: list[int], weights: Tensor | None) -> Tensor:
    parts = []
    logs = torch.zeros(len(keys), dtype=keys.dtype) if weights is None else weights.log()
    for q, k, x, log in zip(queries, *(y.split(lengths) for y in (keys, states, logs)), strict=True):
        scores = torch.einsum("hd,khd->hk", q, k) * q.shape[-1] ** -0.5 + log
        parts.append(scores.softmax(-1) @ x)
    return torch.stack(parts)


def with_gradients(function: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor) -> list[Tensor]:
    output = function(*tensors)
    return [output.detach(), *torch.autograd.grad(output, tensors, grad)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("weighted", [False, True])
def test_it_equals_a_loop_over_sets(dtype: torch.dtype, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    num = sum(LENGTHS)
    exact = [torch.randn(*s, generator=generator).to(dtype).double() for s in ((12, 2, 8), (num, 2, 8), (num, 24))]
    grad = torch.randn(12, 2, 24, generator=generator).to(dtype)
    weights = torch.rand(num, generator=generator, dtype=torch.float64) * 3 + 1e-6 if weighted else None
    layout = layout_of(LENGTHS, weights)
    given = [x.to(dtype).requires_grad_() for x in exact]
    found = with_gradients(lambda *x: pool_states(*x, layout), given, grad)
    exact = [x.requires_grad_() for x in exact]
    wanted = with_gradients(lambda *x: by_loop(*x, LENGTHS, weights), exact, grad.double())
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        assert one.shape == other.shape
        assert (one.double() - other).abs().max() <= TOLERANCE[dtype] * other.abs().max()


def test_the_gradient_is_the_derivative() -> None:
    lengths = [1, 2, 3, 5]
    generator = torch.Generator().manual_seed(2)
    shapes = ((4, 2, 3), (11, 2, 3), (11, 5))
    tensors = [torch.randn(*s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    layout = layout_of(lengths)
    assert torch.autograd.gradcheck(lambda *x: pool_states(*x, layout), tuple(tensors))


def test_attention_pools_values_and_states_alike() -> None:
    torch.manual_seed(4)
    attention = Attention(model_settings(width=32, num_heads=2)).double()
    queries, states = torch.randn(len(LENGTHS), 32).double(), torch.randn(sum(LENGTHS), 32).double()
    layout = layout_of(LENGTHS)
    keys, values = F.linear(states, attention.key_value.weight).chunk(2, -1)
    mixed = pool(attention.queries(queries), rms_norm(keys.unflatten(1, (2, 16))), values.unflatten(1, (2, 16)), layout)
    wanted = attention.output(mixed.flatten(1))
    torch.testing.assert_close(attention.pool(queries, states, layout), wanted)
