"""Log-sum-exp over all keys for every row in bounded memory, for the output layer and InfoNCE.

At 100,000 tags and 16,384 sets one copy of the scores takes 6.6 GB, and autograd would hold several. Here a training
step of any size holds at most `MAX_BYTES` of scores: rows are processed in chunks, whose scores are recomputed in the
backward pass. If all rows fit into one chunk, its scores are kept instead.

Shape legend: S rows, V keys, d width, K own entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

MAX_BYTES: Final = 1 << 30
"""Maximum bytes of scores that a training step holds at once."""
_BUFFERS: Final = 5  # bottleneck, completion head, InfoNCE in both directions, and one that is being filled


def rows_at_once(num_keys: int, max_bytes: int = MAX_BYTES) -> int:
    """Rows per chunk, with `num_keys` keys."""
    return max(1, max_bytes // _BUFFERS // (4 * max(1, num_keys)))


def log_sum_of_others(
    states: Tensor, keys: Tensor, bias: Tensor | None, rows: Tensor, columns: Tensor, max_bytes: int = MAX_BYTES
) -> tuple[Tensor, Tensor]:
    """Two results from the scores ``states @ keys.T + bias``.

    The first, float32 ``[S]``, is each row's log-sum-exp over all keys but its own. The second, float32 ``[K]``, holds
    the scores of the own entries.

    Args:
        states: float32 ``[S, d]``.
        keys: float32 ``[V, d]``.
        bias: float32 ``[V]``, or None for zeros.
        rows: int64 ``[K]``: the row of each own entry; pairs of row and column are distinct.
        columns: int64 ``[K]``: the key of each own entry.
        max_bytes: bounds the scores held at once, see `MAX_BYTES`.
    """
    bias = keys.new_zeros(len(keys)) if bias is None else bias
    return _LogSumOfOthers.apply(states, keys, bias, rows, columns, max_bytes)  # type: ignore[no-any-return, no-untyped-call]


class _LogSumOfOthers(torch.autograd.Function):
    """With L a row's log-sum-exp and g its gradient, the gradient of another key's score s is g * exp(s - L)."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, keys: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, max_bytes: int
    ) -> tuple[Tensor, Tensor]:
        """See `log_sum_of_others`. A single chunk is kept for backward, as softmax probabilities."""
        num_rows, at_once = len(states), rows_at_once(len(keys), max_bytes)
        sums, own = states.new_empty(num_rows), states.new_zeros(len(rows))
        probabilities = None
        for chunk in _chunks(num_rows, at_once):
            indices, inside = _chunk_indices(rows, chunk)
            scores = _scores(states[chunk], keys, bias)
            own = torch.where(inside, scores[indices, columns], own)
            scores[indices, columns] = -torch.inf
            probabilities = scores[:-1]
            highest = probabilities.amax(-1).clamp_(min=torch.finfo(probabilities.dtype).min)  # a row may own every key
            total = probabilities.sub_(highest[:, None]).exp_().sum(-1)
            sums[chunk] = total.log() + highest
            if num_rows <= at_once:
                probabilities.div_(total.clamp_(min=torch.finfo(total.dtype).tiny)[:, None])
        kept = probabilities if probabilities is not None and num_rows <= at_once else None
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
        for chunk in _chunks(len(states), ctx.at_once):
            indices, _ = _chunk_indices(rows, chunk)
            if kept:
                scores = kept[0].new_empty(len(kept[0]) + 1, len(keys))
                torch.mul(kept[0], grad_sums[:, None], out=scores[:-1])
            else:
                scores = _scores(states[chunk], keys, bias)
                scores[indices, columns] = -torch.inf
                scores[:-1].sub_(finite[chunk, None]).exp_().mul_(grad_sums[chunk, None])
            scores[indices, columns] = grad_own
            grad_scores = scores[:-1]
            torch.mm(grad_scores, keys, out=grad_states[chunk])
            torch.addmm(grad_keys, grad_scores.T, states[chunk], out=grad_keys)
            grad_bias += grad_scores.sum(0)
        return grad_states, grad_keys, grad_bias, None, None, None


def _chunks(num_rows: int, at_once: int) -> Iterator[slice]:
    return (slice(start, min(start + at_once, num_rows)) for start in range(0, num_rows, at_once))


def _chunk_indices(rows: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
    """int64 ``[K]``, the row of each entry in the scores of `chunk`, and bool ``[K]``, whether it is in `chunk`.

    Entries of other chunks get the extra last row: selecting entries would make a GPU synchronise to count them.
    """
    inside = (rows >= chunk.start) & (rows < chunk.stop)
    return torch.where(inside, rows - chunk.start, chunk.stop - chunk.start), inside


def _scores(states: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    """float32 ``[S + 1, V]``: the scores of `states`, with an extra last row for entries of other chunks."""
    scores = states.new_empty(len(states) + 1, len(keys))
    torch.addmm(bias, states, keys.T, out=scores[:-1])
    scores[-1] = 0
    return scores
