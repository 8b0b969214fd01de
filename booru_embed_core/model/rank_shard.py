"""The captions of a batch that one rank computes, and the gathered embeddings of all ranks.

What belongs here: indices. The process group is in ``training/distributed``, which passes `RankShard.gather`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RankShard:
    """Every `num_ranks`-th caption of a batch, from `rank` on.

    A rank that gets no caption of a small batch computes the first one with weight 0, so that every rank takes part in
    every collective.
    """

    rank: int = 0
    num_ranks: int = 1
    gather: Callable[[Tensor], list[Tensor]] = lambda block: [block]
    """Returns the blocks of all ranks in rank order. Blocks have equal shapes and no gradients."""

    def rows(self, num: int, device: torch.device) -> Tensor:
        """int64 ``[n]``, n at least 1: the captions of this rank among `num`, which is 1 or more."""
        first = self.rank if self.rank < num else 0
        return torch.arange(first, num if self.rank < num else 1, self.num_ranks, device=device)

    def weight(self, num: int) -> float:
        """0 if the rank has no caption of its own among `num`, else 1."""
        return float(self.rank < num)

    def whole(self, embedding: Tensor, num: int) -> Tensor:
        """float32 ``[2 * num, E]``: the embeddings of all ranks' sets in the batch's order.

        Only this rank's embeddings carry gradients. Summed over ranks, these are the gradients of the whole batch.

        Args:
            embedding: float32 ``[2n, E]``, this rank's sets.
            num: number of captions in the batch, over all ranks.
        """
        if self.num_ranks == 1:
            return embedding
        pairs = torch.stack(embedding.chunk(2), 1)  # [n, 2, E]
        block = pairs.new_zeros(-(-num // self.num_ranks), *pairs.shape[1:])
        block[: len(pairs)] = pairs.detach()
        # Row i of rank r is the batch's caption i * num_ranks + r; rows beyond the last caption are padding.
        gathered = torch.stack(self.gather(block), 1).flatten(0, 1)[:num]
        if self.weight(num):
            gathered = gathered.index_copy(0, self.rows(num, gathered.device), pairs)
        return torch.cat(gathered.unbind(1))


SINGLE_RANK = RankShard()
