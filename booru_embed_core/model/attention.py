"""Attention over variable-length sets, the same functions on every device.

`attend` has one query per token, `pool` one per set. Both take packed tokens with ``cu_seqlens`` (flash-attn's name),
never a padded batch. Backends:

========== ======================================= =========================================================
name       runs on                                 implementation
========== ======================================= =========================================================
flash-attn CUDA, fp16/bf16, extra ``cuda``         ``flash_attn_varlen_func``
varlen     CUDA, fp16/bf16, torch >= 2.10          ``torch.nn.attention.varlen`` (flash kernels inside torch)
buckets    anywhere, any dtype                     sets of similar length share one dense matmul-softmax
========== ======================================= =========================================================

There are no positions and no causal mask: a caption is a set. A token of weight w counts as w copies of itself: log w
is added to its score as a key. The kernels take no such term, so weighted sets always go through the buckets.

Example: with one head, two sets of lengths 3 and 4 share the bucket of width 4. ::

    tokens   a0 a1 a2 b0 b1 b2 b3                gathered once for queries, keys and values
    slots    a0 a1 a2 .. | b0 b1 b2 b3           a padding slot repeats a token and is masked as a key
    output   o0 o1 o2    | o3 o4 o5 o6           gathered back without the padding slot

Shape legend: T tokens, S sets, H heads, D head dimension, P slots of all buckets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from booru_embed_core.model.bucket_sizes import BUCKET_STEP, bucket_sizes
from booru_embed_core.model.rows import sum_rows

Backend = Literal["flash-attn", "varlen", "buckets"]

MASKED: Final = -1e4  # finite in bf16 and fp16: the softmax of a row of -inf is NaN


@dataclass(frozen=True)
class Bucket:
    """Sets of similar length in one dense block: `num_sets` of them, padded to `width` slots each."""

    num_sets: int
    width: int
    is_padding: Tensor | None
    """bool ``[num_sets, width]``; None without padding."""
    log_weights: Tensor | None = None
    """float32 ``[num_sets, width]``, added to the scores of these keys; None if all weights are 1."""


@dataclass(frozen=True)
class BucketPlan:
    """Gather indices from tokens to buckets and back. A row is D numbers: one head of one token.

    A bucket's block ``[H, num_sets, width, D]`` is contiguous, so a batched matmul reads it without a copy.
    """

    buckets: tuple[Bucket, ...]
    to_slots: Tensor
    """int64 ``[P * H]``: the input row ``token * H + head`` that is gathered into each slot row."""
    from_slots: Tensor
    """int64 ``[T * H]``, the inverse: the slot row of each input row."""
    padding_rows: Tensor
    """int64: the slot rows that are padding."""
    sets: Tensor
    """int64 ``[T]``: each token's set."""
    slot_tokens: Tensor
    """int64 ``[P]``: the token of each slot."""
    token_slots: Tensor
    """int64 ``[T]``: each token's slot."""


@dataclass(frozen=True)
class SetLayout:
    """Set boundaries among packed tokens, and the bucket plan if the backend needs one."""

    cu_seqlens: Tensor
    """int32 ``[S + 1]``: set ``s`` holds the tokens ``cu_seqlens[s]:cu_seqlens[s + 1]``."""
    max_seqlen: int
    backend: Backend
    plan: BucketPlan | None
    weights: Tensor | None = None
    """float32 ``[T]``: the weight of each token; None if all are 1."""

    @property
    def num_sets(self) -> int:
        """The number of sets, S."""
        return self.cu_seqlens.numel() - 1

    @classmethod
    def build(
        cls,
        lengths: Tensor,
        max_seqlen: int,
        num_heads: int,
        backend: Backend,
        bucket_step: int = BUCKET_STEP,
        weights: Tensor | None = None,
    ) -> SetLayout:
        """The layout of sets with `lengths` (int64 ``[S]``, each at least 1; ascending for the buckets backend).

        `weights` (float32 ``[T]``, above 0) are for the buckets backend only.
        """
        assert weights is None or backend == "buckets", "the kernels take no weights"
        cu_seqlens = torch.zeros(lengths.numel() + 1, dtype=torch.int32, device=lengths.device)
        torch.cumsum(lengths, 0, out=cu_seqlens[1:])
        plan = _bucket_plan(lengths, num_heads, bucket_step, weights) if backend == "buckets" else None
        return cls(cu_seqlens, max_seqlen, backend, plan, weights)


def pick_backend(device: torch.device, dtype: torch.dtype, weighted: bool = False) -> Backend:
    """The fastest backend for `device` and `dtype`, and for sets with weights if `weighted`."""
    if weighted or device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return "buckets"
    return "flash-attn" if _flash_attn() is not None else "varlen"


def order_by_length(lengths: Tensor) -> Tensor:
    """int64 ``[S]``: indices that sort the sets by ascending length, stably."""
    return torch.argsort(lengths, stable=True)


def attend(queries: Tensor, keys: Tensor, values: Tensor, layout: SetLayout, rows: Tensor | None = None) -> Tensor:
    """Softmax attention of each token over its own set, ``[T, H, D]`` in the inputs' dtype.

    Args:
        queries: ``[T, H, D]``.
        keys: ``[T, H, D]``.
        values: ``[T, H, D]``.
        layout: the sets of the T tokens.
        rows: int64 ``[T]``: each token's row if `queries`, `keys` and `values` are tables ``[R, H, D]`` of distinct
            tokens; None if they have a row per token.
    """
    if layout.plan is not None:
        return _BucketedAttention.apply(queries, keys, values, layout.plan, rows)  # type: ignore[no-any-return, no-untyped-call]
    if rows is not None:
        # torch (2.13) adds the gradients of `table[rows]` in bf16 row by row, where sums stand still at 256.
        queries, keys, values = (table.index_select(0, rows) for table in (queries, keys, values))
    return by_kernel(queries, keys, values, layout, layout.cu_seqlens, layout.max_seqlen)


def by_kernel(
    queries: Tensor, keys: Tensor, values: Tensor, layout: SetLayout, cu_queries: Tensor, max_queries: int
) -> Tensor:
    """Softmax attention of the queries of each set, ``[Q, H, D]``, whose bounds are int32 `cu_queries`, by a kernel."""
    kernel = _flash_attn() if layout.backend == "flash-attn" else _torch_varlen()
    assert kernel is not None
    # Positional arguments: torch renamed the keywords between 2.10 and 2.13.
    output: Tensor = kernel(queries, keys, values, cu_queries, layout.cu_seqlens, max_queries, layout.max_seqlen)
    return output


class _BucketedAttention(torch.autograd.Function):
    """Softmax(QK'/sqrt(D))V bucket by bucket, with a hand-written gradient.

    Autograd would record about ten nodes per bucket and scatter where this gathers, which doubles the time of a
    training step on two cores. SDPA's bf16 backward pass on CPU takes three times as long as these matmuls.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, plan: BucketPlan, rows: Tensor | None
    ) -> Tensor:
        """`attend`; saves the gathered inputs and the attention weights for backward."""
        heads, head_dim = keys.shape[1:]
        to_slots = plan.to_slots
        if rows is not None:
            to_slots = rows[to_slots // heads] * heads + to_slots % heads
        q, k, v = (x.reshape(-1, head_dim).index_select(0, to_slots) for x in (queries, keys, values))
        q *= head_dim**-0.5
        output = torch.empty_like(q)
        weights = []
        for bucket, (qs, ks, vs, os) in _each_bucket(plan, heads, q, k, v, output):
            scores = torch.bmm(qs, ks.transpose(1, 2))
            by_set = scores.view(heads, bucket.num_sets, -1, bucket.width)
            if bucket.log_weights is not None:
                by_set += bucket.log_weights[:, None, :]
            if bucket.is_padding is not None:
                by_set.masked_fill_(bucket.is_padding[:, None, :], MASKED)
            weights.append(scores.softmax(-1))
            torch.bmm(weights[-1], vs, out=os)
        ctx.save_for_backward(q, k, v, *weights)
        ctx.plan, ctx.heads = plan, heads
        ctx.rows, ctx.num_rows = rows, len(keys)
        return output.index_select(0, plan.from_slots).view(-1, heads, head_dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of queries, keys and values."""
        q, k, v, *weights = ctx.saved_tensors
        plan, heads, head_dim = ctx.plan, ctx.heads, q.shape[-1]
        grad_out = grads[0].reshape(-1, head_dim).index_select(0, plan.to_slots)
        grad_out.index_fill_(0, plan.padding_rows, 0)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        blocks = _each_bucket(plan, heads, q, k, v, grad_out, grad_q, grad_k, grad_v)
        for weight, (_, (qs, ks, vs, gs, gq, gk, gv)) in zip(weights, blocks, strict=True):
            torch.bmm(weight.transpose(1, 2), gs, out=gv)
            grad_weight = torch.bmm(gs, vs.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            torch.bmm(grad_scores, ks, out=gq)
            torch.bmm(grad_scores.transpose(1, 2), qs, out=gk)
        found = [g.index_select(0, plan.from_slots) for g in (grad_q, grad_k, grad_v)]
        if ctx.rows is not None:
            found = [sum_rows(g.view(-1, heads * head_dim), ctx.rows, ctx.num_rows) for g in found]
        found[0] = found[0] * head_dim**-0.5
        return (*(g.view(-1, heads, head_dim) for g in found), None, None)


def _each_bucket(plan: BucketPlan, heads: int, *slots: Tensor) -> Any:
    """Each bucket with its block ``[H * num_sets, width, D]`` of every tensor."""
    start = 0
    for bucket in plan.buckets:
        num, width = heads * bucket.num_sets, bucket.width
        yield bucket, [x[start : start + num * width].view(num, width, -1) for x in slots]
        start += num * width


def _bucket_plan(lengths: Tensor, heads: int, bucket_step: int, weights: Tensor | None) -> BucketPlan:
    """The plan for sets of ascending `lengths` (int64 ``[S]``), whose tokens have `weights` (float32 ``[T]``)."""
    assert bool((lengths[1:] >= lengths[:-1]).all()), "the buckets backend needs sets in ascending length"
    device = lengths.device
    bucket_widths, bucket_sets, bucket_tokens = bucket_sizes(lengths, bucket_step)
    num_sets = torch.tensor(bucket_sets, device=device)
    widths = torch.repeat_interleave(torch.tensor(bucket_widths, device=device), num_sets, output_size=len(lengths))
    num_tokens, num_slots = int(lengths.sum()), int(widths.sum())

    set_starts, slot_starts = torch.cumsum(lengths, 0) - lengths, torch.cumsum(widths, 0) - widths
    token_range = torch.arange(num_tokens, device=device)
    slots = torch.repeat_interleave(slot_starts - set_starts, lengths) + token_range
    tokens = torch.repeat_interleave(set_starts, widths)  # padding repeats the first token of its set
    tokens[slots] = token_range
    is_padding = torch.ones(num_slots, dtype=torch.bool, device=device)
    is_padding[slots] = False

    bucket_slots = [n * width for n, width in zip(bucket_sets, bucket_widths, strict=True)]
    log_weights: list[Tensor | None] = [None] * len(bucket_sets)
    if weights is not None:
        of_slots = torch.zeros(num_slots, dtype=weights.dtype, device=device)
        of_slots[slots] = weights.log()
        log_weights = [*torch.split(of_slots, bucket_slots)]

    buckets = []
    masks = torch.split(is_padding, bucket_slots)
    sizes = zip(bucket_sets, bucket_widths, bucket_tokens, masks, log_weights, strict=True)
    for of_bucket, width, of_tokens, mask, log_weight in sizes:
        shape = (of_bucket, width)
        masked = mask.view(shape) if of_tokens < of_bucket * width else None
        buckets.append(Bucket(*shape, masked, None if log_weight is None else log_weight.view(shape)))
    rows = _slot_rows(bucket_slots, heads, device)
    every_set = torch.arange(len(lengths), device=device)
    return BucketPlan(
        tuple(buckets),
        to_slots=_gather_rows(rows, tokens),
        from_slots=rows[slots].reshape(-1),
        padding_rows=rows[is_padding].reshape(-1),
        sets=torch.repeat_interleave(every_set, lengths),
        slot_tokens=tokens,
        token_slots=slots,
    )


def _slot_rows(bucket_slots: list[int], heads: int, device: torch.device) -> Tensor:
    """int64 ``[P, H]``: the row of each slot and head, ordered by bucket, then head, then slot."""
    sizes = torch.tensor(bucket_slots, dtype=torch.int64, device=device)
    starts = torch.cumsum(sizes, 0) - sizes
    size, start = (torch.repeat_interleave(x, sizes)[:, None] for x in (sizes, starts))
    slot = torch.arange(int(sizes.sum()), device=device)[:, None]
    return start * heads + torch.arange(heads, device=device) * size + (slot - start)


def _gather_rows(rows: Tensor, tokens: Tensor) -> Tensor:
    """int64 ``[P * H]``: the input row gathered into each slot row, given the token of each slot (int64 ``[P]``)."""
    heads = rows.shape[1]
    gather = torch.empty(rows.numel(), dtype=torch.int64, device=rows.device)
    gather[rows] = tokens[:, None] * heads + torch.arange(heads, device=rows.device)
    return gather


@functools.cache
def _flash_attn() -> Callable[..., Any] | None:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func  # type: ignore[no-any-return]


@functools.cache
def _torch_varlen() -> Callable[..., Any]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn
