"""Chunked log-sum-exp agrees with all scores at once, and never holds more scores than its limit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from booru_embed_core.model.output_layer import MAX_BYTES, log_sum_of_others, rows_at_once

WIDTH = 6


def plain(states: Tensor, keys: Tensor, bias: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The same results from torch's own operations on all scores."""
    scores = states @ keys.T + bias
    is_own = torch.zeros_like(scores, dtype=torch.bool)
    is_own[rows, columns] = True
    return scores.masked_fill(is_own, -torch.inf).logsumexp(-1), scores[rows, columns]


def inputs(num_rows: int, num_keys: int, num_own: int, seed: int) -> tuple[Tensor, ...]:
    """States, keys and bias in float64, and `num_own` distinct entries."""
    generator = torch.Generator().manual_seed(seed)
    states, keys, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((num_rows, WIDTH), (num_keys, WIDTH), (num_keys,))
    )
    picked = torch.randperm(num_rows * num_keys, generator=generator)[:num_own]
    return states, keys, bias, picked // num_keys, picked % num_keys


@given(
    num_rows=st.integers(1, 9),
    num_keys=st.integers(2, 7),
    at_once=st.integers(1, 10),
    own_share=st.floats(0, 0.9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_parts_give_values_and_gradients_of_the_whole(
    num_rows: int, num_keys: int, at_once: int, own_share: float, seed: int
) -> None:
    *learned, rows, columns = inputs(num_rows, num_keys, int(own_share * num_rows * num_keys), seed)
    max_bytes = at_once * 4 * num_keys * 5
    assert rows_at_once(num_keys, max_bytes) == at_once
    results = []
    for way in (plain, lambda *args: log_sum_of_others(*args, max_bytes)):
        leaves = [one.clone().requires_grad_() for one in learned]
        sums, own = way(*leaves, rows, columns)
        # Rows that own every key have no other keys: their sum is -inf and gets no gradient from a loss.
        total = (sums[sums.isfinite()] * 0.7).square().sum() + (own * 0.3).exp().sum()
        grads = torch.autograd.grad(total, leaves)
        results.append((sums, own, *grads))
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_a_row_that_owns_every_key_has_no_gradient_from_others() -> None:
    states, keys, bias, *_ = inputs(2, 3, 0, 0)
    states.requires_grad_()
    rows, columns = torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2])
    for max_bytes in (1, MAX_BYTES):
        sums, _ = log_sum_of_others(states, keys, bias, rows, columns, max_bytes)
        assert sums[0] == -torch.inf
        (grad,) = torch.autograd.grad(torch.nn.functional.softplus(sums).sum(), states)
        assert not grad[0].any()
        assert grad[1].isfinite().all()
        assert grad[1].any()


class _Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return result


@pytest.mark.parametrize("at_once", [3, 50, 400])
def test_no_operation_gives_more_scores_than_are_allowed(at_once: int) -> None:
    num_rows, num_keys = 400, 300
    states, keys, bias, rows, columns = inputs(num_rows, num_keys, 900, 1)
    keys.requires_grad_()
    with _Largest() as largest:
        sums, own = log_sum_of_others(states, keys, bias, rows, columns, at_once * 4 * num_keys * 5)
        (sums.sum() + own.sum()).backward()  # type: ignore[no-untyped-call]
    # One more row, for the entries of other chunks, and the states and keys themselves.
    assert largest.numel <= max((at_once + 1) * num_keys, keys.numel(), states.numel())
    assert largest.numel >= min(at_once, num_rows) * num_keys
