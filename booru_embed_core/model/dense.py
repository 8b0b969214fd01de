"""The trunk's inference path on a CPU, for embedding many captions.

It computes `SetEncoder.forward` with the same modules and less work:

* Attention runs on sets of equal length together. They form a dense block of tokens, so nothing is padded, masked or
  gathered.
* Without positions, the first block's projections depend only on the token, so they run once per distinct token.
* Pooling has one query per set. The value projection is linear, so it is applied to each head's weighted sum of
  states: one projection per set instead of one per token.
* Within a set it computes in float32, whatever the trunk's dtype: for bf16 oneDNN would build a kernel for each number
  and length of sets (.3 ms, about as long as a caption takes). Only the linear maps take bf16: their shapes recur.

Shape legend: T tokens, S sets, H heads, D head dimension, d width, R distinct tokens.
"""

from __future__ import annotations

import copy
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from booru_embed_core.model.encoder import Attention, Block, Linear, Pool, SetEncoder, rms_norm
from booru_embed_core.model.runs import Run, runs_of

_TABLE_ROWS: Final = 8192
"""Tokens whose tables are computed at once: the first block's feed-forward takes eleven numbers for each of theirs."""


def trunk_in(model: SetEncoder, dtype: torch.dtype) -> SetEncoder:
    """`model` with the linear maps of its trunk in `dtype`; it shares everything else, and computes the same.

    A linear map converts its weights each time it is called. For a single caption that is a fourth of the time.
    """
    found = copy.copy(model)
    found._modules = dict(model._modules)
    for name in ("blocks", "pool"):
        part = copy.deepcopy(getattr(model, name))
        for module in part.modules():
            if isinstance(module, Linear):
                module.weight = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
        found._modules[name] = part
    return found


class DenseEncoder:
    """Computes pooled states of sets whose tokens are in `distinct`; holds ``4 * R * d`` numbers of `dtype`."""

    @torch.inference_mode()
    def __init__(self, model: SetEncoder, distinct: Tensor, dtype: torch.dtype) -> None:
        """Precomputes tables for `distinct` (int64 ``[R]`` token ids, ascending); the weights must not change then."""
        self.model = model
        self._distinct = distinct
        block = model.blocks[0]
        assert isinstance(block, Block)
        attention, num_rows = block.attention, len(distinct)
        self._table = torch.empty(num_rows, model.config.settings.width, dtype=dtype)
        self._first = None
        if attention is not None:
            shape = (num_rows * attention.num_heads, attention.head_dim)
            self._first = [torch.empty(shape, dtype=dtype) for _ in range(3)]
        for start in range(0, num_rows, _TABLE_ROWS):
            rows = slice(start, min(start + _TABLE_ROWS, num_rows))
            table = block.before_attention(rms_norm(_vectors(model, distinct[rows])).to(dtype))
            self._table[rows] = table
            if attention is None or self._first is None:
                continue
            states = rms_norm(table)
            for whole, part in zip(self._first, attention.project(states, states), strict=True):
                whole.view(num_rows, -1)[rows] = part.flatten(1)

    @torch.inference_mode()
    def __call__(self, token_ids: Tensor, lengths: Tensor, weights: Tensor | None = None) -> Tensor:
        """The pooled states, float32 ``[S, d]``.

        Args:
            token_ids: int64 ``[T]``, packed sets, each beginning with the summary token.
            lengths: int64 ``[S]``, ascending.
            weights: float32 ``[T]``, as in `SetEncoder.forward`.
        """
        runs = runs_of(lengths.numpy())
        log_weights = None if weights is None else weights.log()
        rows = torch.searchsorted(self._distinct, token_ids)
        x = F.embedding(rows, self._table)
        for index, block in enumerate(self.model.blocks):
            assert isinstance(block, Block)
            x = x if index == 0 else block.before_attention(x)
            if (attention := block.attention) is not None:
                tables = self._first if index == 0 else None
                x += attention.output(_mixed(attention, x, rows, tables, runs, log_weights))
            x = block.after_attention(x)
        return rms_norm(_pooled(self.model.pool, x, runs, weights).float())


def _vectors(model: SetEncoder, distinct: Tensor) -> Tensor:
    """`SetEncoder.token_vectors` of ascending token ids: the tags are the last of them, and no mask is needed."""
    vectors, num_special = F.embedding(distinct, model.tokens.weight), model.config.num_special
    first = int(torch.searchsorted(distinct, num_special))
    vectors[first:] += F.embedding(model.tag_category[distinct[first:] - num_special], model.categories.weight)
    return vectors


def _mixed(
    attention: Attention,
    x: Tensor,
    rows: Tensor,
    tables: list[Tensor] | None,
    runs: list[Run],
    log_weights: Tensor | None,
) -> Tensor:
    """Softmax attention within each set, ``[T, d]``, of states `x`, or of `rows` of precomputed projection `tables`."""
    heads, head_dim = attention.num_heads, attention.head_dim
    head_range = torch.arange(heads)[:, None]
    if tables is None:
        normed = rms_norm(x)
        projected = attention.project(normed, normed)
    mixed = torch.empty_like(x)
    for run in runs:
        if tables is None:
            q, k, v = (y[run.tokens].view(*run.shape, heads, head_dim).transpose(1, 2).float() for y in projected)
        else:
            head_rows = rows[run.tokens].view(*run.shape)[:, None] * heads + head_range
            q, k, v = (F.embedding(head_rows, table).float() for table in tables)
        scores = torch.matmul(q * head_dim**-0.5, k.transpose(-2, -1))
        if log_weights is not None:
            scores += log_weights[run.tokens].view(run.shape)[:, None, None]
        mixed[run.tokens].view(*run.shape, heads, head_dim).copy_(torch.matmul(scores.softmax(-1), v).transpose(1, 2))
    return mixed


def _pooled(pool: Pool, x: Tensor, runs: list[Run], weights: Tensor | None) -> Tensor:
    """The pooled states ``[S, d]`` of token states ``[T, d]``."""
    attention = pool.attention
    if attention is None:
        sums = [_scaled_sum(x, run, weights) for run in runs]
        pooled = rms_norm(torch.cat(sums)).to(x.dtype)
        return pooled + pool.feed_forward(rms_norm(pooled))  # type: ignore[no-any-return]
    heads, head_dim = attention.num_heads, attention.head_dim
    normed = rms_norm(x)
    summary = torch.cat([x[run.tokens].view(*run.shape, -1)[:, 0] for run in runs])
    key_weight, value_weight = attention.key_value.weight.to(x.dtype).chunk(2)
    keys = rms_norm(F.linear(normed, key_weight).view(-1, heads, head_dim))
    queries = attention.queries(rms_norm(summary)) * head_dim**-0.5
    means = x.new_empty(len(summary), heads, x.shape[-1])
    for run in runs:
        scores = (keys[run.tokens].view(*run.shape, heads, head_dim) * queries[run.sets, None]).sum(-1)
        if weights is not None:
            scores += weights[run.tokens].log().view(*run.shape, 1)
        states = normed[run.tokens].view(*run.shape, -1).float()
        means[run.sets] = torch.bmm(scores.float().softmax(1).transpose(1, 2), states)
    values = torch.bmm(means.transpose(0, 1), value_weight.view(heads, head_dim, -1).transpose(1, 2))
    pooled = summary + attention.output(values.transpose(0, 1).reshape(len(summary), -1))
    return pooled + pool.feed_forward(rms_norm(pooled))  # type: ignore[no-any-return]


def _scaled_sum(x: Tensor, run: Run, weights: Tensor | None) -> Tensor:
    """The sum of each set's states divided by the root of their number, float32 ``[run's sets, d]``."""
    states = x[run.tokens].view(*run.shape, -1).float()
    if weights is None:
        return states.sum(1) * float(run.shape[1] ** -0.5)
    given = weights[run.tokens].view(*run.shape, 1)
    sums = (states * given).sum(1)
    return sums * given.sum(1).rsqrt()
