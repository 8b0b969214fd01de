"""Which sets of ascending length share a bucket."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.model import bucket_sizes as module
from booru_embed_core.model.bucket_sizes import bucket_sizes

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30).map(sorted)


def cost(widths: list[int], sets: list[int]) -> int:
    pairs = sum(num * width * (width + module._SLOT_COST) for width, num in zip(widths, sets, strict=True))
    return pairs + module._BUCKET_COST * len(widths)


@given(lengths=LENGTHS, bucket_cost=st.sampled_from([0, 100, 2_000, 100_000]))
@settings(max_examples=40, deadline=None)
def test_no_other_buckets_cost_less(lengths: list[int], bucket_cost: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BUCKET_COST", bucket_cost)
        widths, sets, tokens = bucket_sizes(torch.tensor(lengths))
        assert (sum(sets), sum(tokens)) == (len(lengths), sum(lengths))
        ends = list(itertools.accumulate(sets))
        for start, end, width, num in zip([0, *ends[:-1]], ends, widths, tokens, strict=True):
            assert width == -(-lengths[end - 1] // 4) * 4
            assert num == sum(lengths[start:end])
        padded = sorted({-(-length // 4) * 4 for length in lengths})
        costs = []
        for kept in itertools.product([False, True], repeat=len(padded) - 1):
            others = [width for width, is_kept in zip(padded, (*kept, True), strict=True) if is_kept]
            counts = [0] * len(others)
            for length in lengths:
                counts[next(i for i, width in enumerate(others) if length <= width)] += 1
            costs.append(cost(others, counts))
        assert cost(widths, sets) == min(costs)


def test_a_step_of_one_pads_nothing() -> None:
    assert bucket_sizes(torch.tensor([1, 3, 3, 4]), 1) == ([1, 3, 4], [1, 2, 1], [1, 6, 4])
