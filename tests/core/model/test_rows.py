"""Rows of a table that many tokens share."""

from __future__ import annotations

import pytest
import torch

from booru_embed_core.model.rows import sum_rows, take_rows


@pytest.mark.parametrize("num", [0, 1, 2048, 5000])
def test_sums_by_row(num: int) -> None:
    generator = torch.Generator().manual_seed(num)
    rows = torch.randint(6, (num,), generator=generator)
    values = torch.randint(-8, 9, (num, 3), generator=generator).float()
    wanted = torch.zeros(7, 3).index_add(0, rows, values)  # exact: whole numbers; no token is row 6
    assert torch.equal(sum_rows(values, rows, 7), wanted)


def test_what_is_looked_up_has_a_gradient_summed_in_float32() -> None:
    table = torch.randn(3, 4).bfloat16().requires_grad_()
    rows = torch.tensor([0, 2]).repeat(4000)
    taken = take_rows(table, rows)
    assert torch.equal(taken, table[rows])
    taken.sum().backward()  # type: ignore[no-untyped-call]
    assert table.grad is not None
    assert table.grad[:, 0].tolist() == [4000, 0, 4000]  # a sum in bf16 stands still at 256
