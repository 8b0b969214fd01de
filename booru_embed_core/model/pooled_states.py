"""Pooling: attention of one query per set. For the buckets backend, of states instead of values.

Values are a linear map of states, so the values of a head's mean state are the mean of its values: the map is applied
once per set and head instead of once per token. Neither keys nor states are gathered by head.

Shape legend: T tokens, S sets, H heads, D head dimension, d width, P slots of all buckets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from booru_embed_core.model.attention import MASKED, BucketPlan, SetLayout, by_kernel
from booru_embed_core.model.rows import sum_rows


def pool(queries: Tensor, keys: Tensor, values: Tensor, layout: SetLayout) -> Tensor:
    """Softmax attention of one query per set over that set, ``[S, H, D]`` in the inputs' dtype.

    Args:
        queries: ``[S, H, D]``.
        keys: ``[T, H, D]``.
        values: ``[T, H, D]``.
        layout: the sets of the T tokens.
    """
    if layout.plan is not None:  # by each head's mean of the values of all heads: `pool_values` takes less time
        means = pool_states(queries, keys, values.flatten(1), layout)
        return means.view(*means.shape[:2], *values.shape[1:]).diagonal(dim1=1, dim2=2).transpose(1, 2)
    cu_queries = torch.arange(layout.num_sets + 1, dtype=torch.int32, device=queries.device)
    return by_kernel(queries, keys, values, layout, cu_queries, 1)


def pool_values(queries: Tensor, keys: Tensor, states: Tensor, value_weight: Tensor, layout: SetLayout) -> Tensor:
    """What `pool` gives for the values that `value_weight` ``[H * D, d]`` makes of `states`, ``[S, H * D]``.

    The other arguments are those of `pool_states`.
    """
    means = pool_states(queries, keys, states, layout).transpose(0, 1).contiguous()
    by_head = value_weight.view(len(means), -1, states.shape[-1])
    return torch.bmm(means, by_head.transpose(1, 2)).transpose(0, 1).flatten(1)


def pool_states(queries: Tensor, keys: Tensor, states: Tensor, layout: SetLayout) -> Tensor:
    """Each head's mean of a set's states by its softmax attention, ``[S, H, d]``; for the buckets backend.

    Args:
        queries: ``[S, H, D]``.
        keys: ``[T, H, D]``.
        states: ``[T, d]``.
        layout: the sets of the T tokens.
    """
    assert layout.plan is not None, "only the buckets backend pools states"
    return _BucketedMeans.apply(queries, keys, states, layout.plan)  # type: ignore[no-any-return, no-untyped-call]


class _BucketedMeans(torch.autograd.Function):
    """softmax(qK'/sqrt(D))X bucket by bucket, for a query per set and head; X are states that all heads share."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, states: Tensor, plan: BucketPlan) -> Tensor:
        """See `pool_states`."""
        num_sets, heads, head_dim = queries.shape
        of_tokens = (queries * head_dim**-0.5).view(num_sets, -1).index_select(0, plan.sets).view_as(keys)
        wide = torch.promote_types(keys.dtype, torch.float32)
        scores = (keys * of_tokens).sum(-1, dtype=wide).index_select(0, plan.slot_tokens)
        slots = states.index_select(0, plan.slot_tokens)
        means = states.new_empty(num_sets, heads, states.shape[-1])
        weights = []
        for bucket, (of_bucket, of_slots), (out,) in _by_bucket(plan, (scores, slots), (means,)):
            if bucket.log_weights is not None:
                of_bucket += bucket.log_weights[..., None]
            if bucket.is_padding is not None:
                of_bucket.masked_fill_(bucket.is_padding[..., None], MASKED)
            weights.append(of_bucket.softmax(1).to(states.dtype))
            torch.bmm(weights[-1].transpose(1, 2), of_slots, out=out)
        ctx.save_for_backward(of_tokens, keys, slots, *weights)
        ctx.plan = plan
        return means

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of queries, keys and states."""
        of_tokens, keys, slots, *weights = ctx.saved_tensors
        plan, head_dim = ctx.plan, keys.shape[-1]
        grad_slots, grad_scores = torch.empty_like(slots), slots.new_empty(len(slots), keys.shape[1])
        blocks = _by_bucket(plan, (slots, grad_slots, grad_scores), (grads[0].contiguous(),))
        for weight, (_, (of_slots, of_states, of_scores), (grad,)) in zip(weights, blocks, strict=True):
            torch.bmm(weight, grad, out=of_states)
            grad_weight = torch.bmm(of_slots, grad.transpose(1, 2))
            of_scores.copy_(torch._softmax_backward_data(grad_weight, weight, 1, weight.dtype))
        tokens = plan.token_slots
        by_token = grad_scores.index_select(0, tokens)[..., None]
        grad_queries = sum_rows((keys * by_token).flatten(1), plan.sets, len(grads[0])).view(-1, *keys.shape[1:])
        return grad_queries * head_dim**-0.5, of_tokens * by_token, grad_slots.index_select(0, tokens), None


def _by_bucket(plan: BucketPlan, slots: tuple[Tensor, ...], sets: tuple[Tensor, ...]) -> Any:
    """Each bucket with its block of every tensor: ``[num_sets, width, …]`` of slots, ``[num_sets, …]`` of sets."""
    slot = first = 0
    for bucket in plan.buckets:
        end, last = slot + bucket.num_sets * bucket.width, first + bucket.num_sets
        of_slots = [x[slot:end].view(bucket.num_sets, bucket.width, -1) for x in slots]
        yield bucket, of_slots, [x[first:last] for x in sets]
        slot, first = end, last
