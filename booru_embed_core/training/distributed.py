"""The ranks of a training: torchrun's processes, each of which computes a shard of every batch.

Every rank knows the whole batch and draws random numbers for all of it, so draws do not depend on the number of ranks.
Dropout is the exception: each rank draws it for its own captions. Gradients are summed over the ranks, not averaged,
since each rank's loss is already divided by the whole batch's counts.

What belongs here: the process group and its collectives. Shards are in ``model/rank_shard``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from booru_embed_core.errors import one_line
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.rank_shard import SINGLE_RANK, RankShard

_TIMEOUT: Final = timedelta(minutes=30)
"""How long a rank waits for one that does not respond. A rank that ended is noticed at once."""
_RANK_LOST: Final = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|Timed out", re.IGNORECASE)


class RankLostError(ValueError):
    """Another rank ended or fell silent; the reason is in that rank's output."""


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks. With a single rank, every collective returns its input."""

    rank: int = 0
    num_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and reports."""
        return self.rank == 0

    @property
    def shard(self) -> RankShard:
        """The part of a batch that this rank computes."""
        return SINGLE_RANK if self.num_ranks == 1 else RankShard(self.rank, self.num_ranks, _gather)

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum of `numbers` over the ranks, on every rank."""
        if self.num_ranks > 1:
            numbers = numbers.clone()
            dist.all_reduce(numbers)
        return numbers

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank; the same answer on every rank."""
        return flag if self.num_ranks == 1 else bool(self.sum(torch.tensor(int(flag))))

    def wait(self) -> None:
        """Returns when every rank has called it."""
        self.any(False)

    def check_agreement(self, name: str, value: str) -> None:
        """Checks that every rank has the same `value`.

        Raises:
            ValueError: on every rank, if `value` differs on one of them.
        """
        if self.num_ranks == 1:
            return
        values: list[Any] = [None] * self.num_ranks
        dist.all_gather_object(values, value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ValueError(
                    f"{name} is {other} on rank {rank}, but {values[0]} on rank 0; give all ranks the same files"
                )

    def wrap(self, model: SetEncoder) -> DistributedDataParallel | None:
        """`model` with the first rank's weights, wrapped so that `backward` sums its gradients over the ranks.

        None with a single rank.
        """
        if self.num_ranks == 1:
            return None
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
        wrapped.broadcast_buffers = False  # buffers never change; torch 2.13 renamed the argument
        wrapped.register_comm_hook(None, lambda _, bucket: _add_gradients(bucket))
        return wrapped


@contextmanager
def joined_ranks(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """The ranks described by torchrun's variables in `environment`; a single rank without them.

    Each process uses the GPU of its local rank.

    Raises:
        RankLostError: another rank ended; replaces the error that this caused in the ``with`` block.
    """
    num_ranks = int(environment.get("WORLD_SIZE", "1"))
    if num_ranks == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(environment["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=_TIMEOUT)
    else:
        dist.init_process_group("gloo", timeout=_TIMEOUT)
    ranks = Ranks(dist.get_rank(), num_ranks)
    try:
        yield ranks
    except RuntimeError as error:
        if not _RANK_LOST.search(str(error)) or "out of memory" in str(error):  # this rank's own error
            raise
        raise RankLostError(
            f"rank {ranks.rank} of {num_ranks}: another rank ended or fell silent ({one_line(error, 160)}); read its "
            f"message and start again: training resumes from the last saved state, with any number of ranks"
        ) from None
    finally:
        dist.destroy_process_group()


def _gather(block: Tensor) -> list[Tensor]:
    blocks = [torch.empty_like(block) for _ in range(dist.get_world_size())]
    dist.all_gather(blocks, block)
    return blocks


def _add_gradients(bucket: Any) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future
