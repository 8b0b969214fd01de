"""Rows of a table that many tokens share: looked up, and gradients summed by row."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

_ROWS_AT_ONCE: Final = 2048
"""Rows that are converted to float32 at once: more would leave the cache, and the pages of each copy are new."""


def take_rows(table: Tensor, rows: Tensor) -> Tensor:
    """``table[rows]``, ``[T, d]``, of a table ``[R, d]`` and int64 ``[T]``; its gradient is summed in float32."""
    return _TakeRows.apply(table, rows)  # type: ignore[no-any-return, no-untyped-call]


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = len(table)
        return table.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return sum_rows(grads[0], rows, ctx.num_rows), None


def sum_rows(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """``[num_rows, d]``: `values` ``[T, d]`` summed by `rows` (int64 ``[T]``), at least in float32."""
    wide = torch.promote_types(values.dtype, torch.float32)
    sums = torch.zeros(num_rows, values.shape[1], dtype=wide, device=values.device)
    for start in range(0, len(values), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        sums += torch.ops.aten.embedding_dense_backward(values[part].to(wide), rows[part], num_rows, -1, False)
    return sums.to(values.dtype)
