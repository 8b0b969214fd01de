"""Rank shards: each caption on exactly one rank, and embeddings gathered in batch order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from booru_embed_core.model.rank_shard import SINGLE_RANK, RankShard

CPU = torch.device("cpu")
SIZES = {"num": st.integers(1, 20), "num_ranks": st.integers(1, 7)}


@given(**SIZES)
@settings(deadline=None)
def test_every_caption_belongs_to_one_rank_and_shards_differ_by_one_at_most(num: int, num_ranks: int) -> None:
    shards = [RankShard(rank, num_ranks) for rank in range(num_ranks)]
    own = [shard.rows(num, CPU).tolist() for shard in shards if shard.weight(num)]
    assert sorted(row for rows in own for row in rows) == list(range(num))
    assert max(map(len, own)) - min(map(len, own)) <= 1
    for shard in shards:
        assert shard.weight(num) in (0.0, 1.0)
        if not shard.weight(num):  # it computes a caption that counts nothing, to take part in every exchange
            assert shard.rows(num, CPU).tolist() == [0]


def gathered(embeddings: Tensor, num_ranks: int) -> list[Tensor]:
    """Each rank's embeddings of all sets ``[2 * num, E]`` after the gather."""
    num = len(embeddings) // 2
    blocks: list[Tensor] = []

    def record(block: Tensor) -> list[Tensor]:
        blocks.append(block)
        return [block] * num_ranks

    def own(rank: int) -> Tensor:
        rows = RankShard(rank, num_ranks).rows(num, CPU)
        return embeddings[torch.cat([rows, rows + num])]

    for rank in range(num_ranks):
        RankShard(rank, num_ranks, record).whole(own(rank), num)
    return [RankShard(rank, num_ranks, lambda _: blocks).whole(own(rank), num) for rank in range(num_ranks)]


@given(**SIZES)
@settings(deadline=None)
def test_every_rank_has_all_embeddings_in_the_order_of_the_batch(num: int, num_ranks: int) -> None:
    embeddings = torch.randn(2 * num, 3, generator=torch.Generator().manual_seed(num))
    if num_ranks == 1:
        assert SINGLE_RANK.whole(embeddings, num) is embeddings
        return
    for whole in gathered(embeddings, num_ranks):
        assert torch.equal(whole, embeddings)


@pytest.mark.parametrize(("num", "num_ranks"), [(1, 3), (5, 2), (6, 3)])
def test_gradients_of_all_ranks_add_up_to_that_of_the_whole(num: int, num_ranks: int) -> None:
    embeddings = torch.randn(2 * num, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.arange(6.0 * num).view(2 * num, 3)
    for rank, whole in enumerate(gathered(embeddings, num_ranks)):
        assert whole.requires_grad == (rank < num)  # a rank without a caption has no gradient to add
        if whole.requires_grad:
            (whole * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(embeddings.grad, weights)  # type: ignore[arg-type]
