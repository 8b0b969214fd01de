"""Scores of every key for every row, in bounded memory: what the output layer and InfoNCE sum over.

At 100,000 tags and 16,384 sets one copy of the scores takes 6.6 GB, and autograd would hold several. Here no more than
`MAX_BYTES` of them exist at any time in a training step, whatever its size: rows are done in parts, and the scores of
a part are computed again for the gradient. Where a single part holds all rows it is kept instead.

Shape legend: S rows, V keys, d width, K own entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

MAX_BYTES: Final = 1 << 30
"""Of all scores that a training step holds at once."""
_BUFFERS: Final = 5  # the bottleneck's, the head's, InfoNCE's both ways, and one that is being filled


def rows_at_once(num_keys: int, max_bytes: int = MAX_BYTES) -> int:
    """Rows whose scores of `num_keys` keys are one part."""
    return max(1, max_bytes // _BUFFERS // (4 * max(1, num_keys)))


def log_sum_of_others(
    states: Tensor, keys: Tensor, bias: Tensor | None, rows: Tensor, columns: Tensor, max_bytes: int = MAX_BYTES
) -> tuple[Tensor, Tensor]:
    """Of the scores ``states @ keys.T + bias``: float32 ``[S]``, the log of each row's sum of exponentials over all
    keys but its own, and float32 ``[K]``, the scores of its own.

    Args:
        states: float32 ``[S, d]``.
        keys: float32 ``[V, d]``.
        bias: float32 ``[V]``, or None for zeros.
        rows: int64 ``[K]``: the row of each entry that is a row's own; no pair of row and column twice.
        columns: int64 ``[K]``: its key.
        max_bytes: bounds the scores that exist at once, as `MAX_BYTES` does.
    """
    bias = keys.new_zeros(len(keys)) if bias is None else bias
    return _LogSumOfOthers.apply(states, keys, bias, rows, columns, max_bytes)  # type: ignore[no-any-return, no-untyped-call]


class _LogSumOfOthers(torch.autograd.Function):
    """With L the log of the sum and g its gradient, a score s that is none of its row's own gets g * exp(s - L)."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, keys: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, max_bytes: int
    ) -> tuple[Tensor, Tensor]:
        """As `log_sum_of_others`; a single part is kept as each key's share of its row's sum."""
        num_rows, at_once = len(states), rows_at_once(len(keys), max_bytes)
        sums, own = states.new_empty(num_rows), states.new_zeros(len(rows))
        shares = None
        for part in _parts(num_rows, at_once):
            places, inside = _places(rows, part)
            scores = _scores(states[part], keys, bias)
            own = torch.where(inside, scores[places, columns], own)
            scores[places, columns] = -torch.inf
            shares = scores[:-1]
            highest = shares.amax(-1).clamp_(min=torch.finfo(shares.dtype).min)  # a row may own every key
            total = shares.sub_(highest[:, None]).exp_().sum(-1)
            sums[part] = total.log() + highest
            if num_rows <= at_once:
                shares.div_(total.clamp_(min=torch.finfo(total.dtype).tiny)[:, None])
        kept = shares if shares is not None and num_rows <= at_once else None
        ctx.save_for_backward(states, keys, bias, rows, columns, sums, *([] if kept is None else [kept]))
        ctx.at_once = at_once
        return sums, own

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of states, keys and bias."""
        states, keys, bias, rows, columns, sums, *kept = ctx.saved_tensors
        grad_sums, grad_own = grads
        grad_states, grad_keys, grad_bias = torch.empty_like(states), torch.zeros_like(keys), torch.zeros_like(bias)
        finite = sums.clamp(min=torch.finfo(sums.dtype).min)
        for part in _parts(len(states), ctx.at_once):
            places, _ = _places(rows, part)
            if kept:
                scores = kept[0].new_empty(len(kept[0]) + 1, len(keys))
                torch.mul(kept[0], grad_sums[:, None], out=scores[:-1])
            else:
                scores = _scores(states[part], keys, bias)
                scores[places, columns] = -torch.inf
                scores[:-1].sub_(finite[part, None]).exp_().mul_(grad_sums[part, None])
            scores[places, columns] = grad_own
            grad_scores = scores[:-1]
            torch.mm(grad_scores, keys, out=grad_states[part])
            torch.addmm(grad_keys, grad_scores.T, states[part], out=grad_keys)
            grad_bias += grad_scores.sum(0)
        return grad_states, grad_keys, grad_bias, None, None, None


def _parts(num_rows: int, at_once: int) -> Iterator[slice]:
    return (slice(start, min(start + at_once, num_rows)) for start in range(0, num_rows, at_once))


def _places(rows: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """int64 ``[K]``: the row of `part`'s scores in which each entry lies, the row below them for those of other parts;
    and bool ``[K]``: whether it lies there. To select the entries would make a GPU wait for their number."""
    inside = (rows >= part.start) & (rows < part.stop)
    return torch.where(inside, rows - part.start, part.stop - part.start), inside


def _scores(states: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    """float32 ``[S + 1, V]``: of each of `states`, and below them a row for entries of none."""
    scores = states.new_empty(len(states) + 1, len(keys))
    torch.addmm(bias, states, keys.T, out=scores[:-1])
    scores[-1] = 0
    return scores
