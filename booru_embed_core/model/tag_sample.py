"""Which tags one training step scores: those of its captions, and a random sample of all others.

Scoring every tag is nine tenths of a step at 189,000 tags. The sum over a set's negatives is estimated instead: each
tag n outside the captions is drawn with a probability π_n, and counts 1/π_n times, by ``-log π_n`` on its score. Tags
of the captions are always there and count once, so the estimate of the sum has no bias, and a caption's own tags are
known exactly (sampled softmax: Bengio & Senécal 2008; importance weights: Jean et al. 2015).

The size of a sample is fixed by Pareto sampling (Rosén 1997), whose inclusion probabilities are close to those asked
for: a step's arrays keep the same few shapes.

Shape legend: V tags, B distinct tags of the captions, C tags of the sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

POWER: Final = 0.75
"""A tag is drawn in proportion to this power of its count."""
_PARTS: Final = 8
"""Sizes of samples are multiples of this part of the tags drawn: libraries keep a compiled product for each shape."""
_MAX_ROUNDS: Final = 50


@dataclass(frozen=True)
class TagSample:
    """The tags that a step scores, distinct: those of its captions in ascending order, then the others in theirs."""

    tags: Tensor
    """int64 ``[C]`` tag indices."""
    log_weights: Tensor
    """float32 ``[C]``: the log of how often a tag counts as a negative; 0 for the captions' tags."""
    num_of_captions: int
    """B."""

    def local(self, tags: Tensor) -> Tensor:
        """int64 ``[T]``: the places in the sample of `tags`, which are tags of the captions."""
        return torch.searchsorted(self.tags[: self.num_of_captions], tags)


class TagSampler:
    """Draws samples of tags by their counts.

    Args:
        counts: ``[V]``, how many posts have each tag.
        num_sampled: tags drawn beside those of the captions, or an eighth more.
        device: where samples are drawn.
    """

    def __init__(self, counts: Tensor, num_sampled: int, device: torch.device) -> None:
        self.num_sampled = num_sampled
        self._sizes = counts.to(device=device, dtype=torch.float64).clamp(min=1) ** POWER

    @property
    def num_tags(self) -> int:
        """V."""
        return len(self._sizes)

    def size(self, num_own: int) -> int:
        """C with `num_own` distinct tags of the captions."""
        part = -(-self.num_sampled // _PARTS)
        return min(-(-(num_own + self.num_sampled) // part) * part, self.num_tags)

    def draw(self, caption_tags: Tensor, generator: torch.Generator) -> TagSample:
        """A sample with all of `caption_tags` (int64 ``[T]``), the same for the same generator."""
        own = torch.unique(caption_tags)
        num_others = self.size(len(own)) - len(own)
        probabilities = _inclusion(self._sizes.index_fill(0, own, 0.0), num_others)
        uniform = torch.rand(self.num_tags, generator=generator, device=own.device, dtype=torch.float64)
        keys = (uniform / (1 - uniform) * (1 - probabilities) / probabilities).index_fill_(0, own, torch.inf)
        others = keys.topk(num_others, largest=False, sorted=False).indices.sort().values
        log_weights = torch.cat([torch.zeros(len(own), device=own.device), -probabilities[others].log().float()])
        return TagSample(torch.cat([own, others]), log_weights, len(own))


def _inclusion(sizes: Tensor, num: int) -> Tensor:
    """float64 ``[V]``: probabilities in proportion to `sizes`, at most 1, that sum to `num`; 0 where the size is 0."""
    probabilities = torch.zeros_like(sizes)
    rest = sizes
    for _ in range(_MAX_ROUNDS):
        scale = (num - probabilities.sum()) / rest.sum().clamp(min=torch.finfo(rest.dtype).tiny)
        certain = rest * scale >= 1
        if not bool(certain.any()):
            return probabilities + rest * scale
        probabilities = torch.where(certain, 1.0, probabilities)
        rest = torch.where(certain, 0.0, rest)
    return (probabilities + rest * scale).clamp(max=1)
