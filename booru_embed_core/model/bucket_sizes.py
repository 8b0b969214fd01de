"""How sets of ascending length are grouped into buckets of one padded width."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

# Sets are padded to a multiple of this. Finer steps pad less but give more and smaller matmuls, and odd widths leave
# bf16's fast path.
BUCKET_STEP: Final = 4
_SLOT_COST: Final = 12
_BUCKET_COST: Final = 8_000
"""What a slot and a bucket cost beside the pairs of slots, in pairs. Matmuls of a new shape are prepared first."""


def bucket_sizes(lengths: Tensor, step: int = BUCKET_STEP) -> tuple[list[int], list[int], list[int]]:
    """The buckets of sets of ascending `lengths` (int64 ``[S]``) that cost least: their widths, sets and tokens.

    Widths are multiples of `step`. With a step of 1 nothing is padded: each length has a bucket.
    """
    padded = torch.div(lengths + step - 1, step, rounding_mode="floor") * step
    widths, sets = (x.tolist() for x in torch.unique_consecutive(padded, return_counts=True))
    ends = _cheapest_ends(widths, sets) if step > 1 else list(range(1, len(widths) + 1))
    starts = [0, *ends[:-1]]
    sets = [sum(sets[start:end]) for start, end in zip(starts, ends, strict=True)]
    bounds = torch.tensor([0, *sets]).cumsum(0).to(lengths.device)
    tokens = F.pad(lengths.cumsum(0), (1, 0))[bounds].diff()
    return [widths[end - 1] for end in ends], sets, tokens.tolist()


def _cheapest_ends(widths: list[int], sets: list[int]) -> list[int]:
    """Where buckets end among the ascending `widths` of `sets`, so that the sum of their costs is least."""
    costs, starts = [0], [0]
    for last, width in enumerate(widths):
        num, best, best_start = 0, -1, last
        for start in range(last, -1, -1):
            num += sets[start]
            cost = costs[start] + num * width * (width + _SLOT_COST) + _BUCKET_COST
            if best < 0 or cost < best:
                best, best_start = cost, start
        costs.append(best)
        starts.append(best_start)
    ends, end = [], len(widths)
    while end:
        ends.append(end)
        end = starts[end]
    return ends[::-1]
