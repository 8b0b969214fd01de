"""The ranks of a training or another stage: torchrun's processes, which share its work.

In a training each of them computes a shard of every batch; other stages deal their parts.

Every rank knows the whole batch and draws random numbers for all of it, so draws do not depend on the number of ranks.
Dropout is the exception: each rank draws it for its own captions. Gradients are summed over the ranks, not averaged,
since each rank's loss is already divided by the whole batch's counts.

What belongs here: the process group and its collectives. Shards are in ``model/rank_shard``, a launcher's variables in
``launch_variables``.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from booru_embed_core.errors import one_line
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.rank_shard import SINGLE_RANK, RankShard
from booru_embed_core.training.launch_variables import LaunchError, checked_variables, described
from booru_embed_core.training.lifeline import Lifeline, Store, end_connections, lifeline

Result = TypeVar("Result")

_TIMEOUT: Final = timedelta(minutes=30)
"""How long a rank waits for one that does not respond. One that ended, or whose link is cut, is noticed before."""
JOIN_TIMEOUT: Final = timedelta(seconds=120)
"""How long a rank waits for the first contact with the others, which are to be started at the same time."""
_RANK_LOST: Final = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|Timed out", re.IGNORECASE)


class RankLostError(ValueError):
    """Another rank ended or fell silent; the reason is in that rank's output."""


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks. With a single rank, every collective returns its input."""

    rank: int = 0
    num_ranks: int = 1
    store: Store | None = field(default=None, repr=False, compare=False)
    """Through which the ranks have found each other."""
    link: Lifeline | None = field(default=None, repr=False, compare=False)
    """The connections that tell whether the others are still there."""

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

    @property
    def is_alone(self) -> bool:
        """Whether another rank is known to have ended, or not to answer any more."""
        return self.link is not None and self.link.loss is not None

    def dealt(self, name: str, num: int) -> Iterator[int]:
        """Those of the numbers from 0 to `num` - 1 that this rank takes: each is the next that no rank has taken.

        A fast rank takes more of them. Every rank asks for the same names in the same order; a name is used once.

        Raises:
            RankLostError: another rank ended.
        """
        if self.store is None:
            yield from range(num)
            return
        while (number := self._next(name)) < num:
            yield number

    def _next(self, name: str) -> int:
        assert self.store is not None
        if self.is_alone:
            raise RuntimeError("its connection ended")  # `joined_ranks` tells it
        return self.store.add(f"dealt/{name}", 1) - 1

    def each(self, name: str, num: int, compute: Callable[[int], Result]) -> list[Result]:
        """``compute(number)`` for each number from 0 to `num` - 1, in that order, on every rank; `dealt` to the ranks.

        Raises:
            RankLostError: another rank ended.
        """
        own = {number: compute(number) for number in self.dealt(name, num)}
        if self.num_ranks == 1:
            return list(own.values())
        of_ranks: list[Any] = [None] * self.num_ranks
        dist.all_gather_object(of_ranks, own)
        found = {number: result for of_rank in of_ranks for number, result in of_rank.items()}
        return [found[number] for number in range(num)]

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

        None with a single rank. Drop it before the ``with`` block of `joined_ranks` ends: its reducer would be the last
        owner of the process group, and torch (2.13) destroys a reducer without releasing the GIL. The group's threads
        are joined then, and one that still drops the tensor of the last collective waits for the GIL: a deadlock.
        """
        if self.num_ranks == 1:
            return None
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
        wrapped.broadcast_buffers = False  # buffers never change; torch 2.13 renamed the argument
        wrapped.register_comm_hook(None, lambda _, bucket: _add_gradients(bucket))
        return wrapped


ONE_RANK: Final = Ranks()
"""This process alone."""


@contextmanager
def joined_ranks(environment: Mapping[str, str] | None = None) -> Iterator[Ranks]:
    """The ranks described by torchrun's variables; a single rank without them.

    Each process uses the GPU of its local rank.

    Args:
        environment: the variables; by default those of this process, checked by `checked_variables`.

    Raises:
        LaunchError: the variables contradict each other, or the other ranks cannot be reached within `JOIN_TIMEOUT`.
        RankLostError: another rank ended; replaces the error that this caused in the ``with`` block.
    """
    if environment is None:
        environment = checked_variables(needs_local_rank=torch.cuda.is_available())
    num_ranks = int(environment.get("WORLD_SIZE", "1"))
    if num_ranks == 1:
        yield Ranks()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(environment["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    shared = _shared_store(environment)
    dist.init_process_group(backend, timeout=_TIMEOUT, **shared)
    ranks = Ranks(dist.get_rank(), num_ranks, shared.get("store"))
    try:
        with _linked(ranks, environment) as linked:
            ranks = linked
            yield ranks
    except RuntimeError as error:
        is_lost = ranks.is_alone or _RANK_LOST.search(str(error))
        if not is_lost or "out of memory" in str(error):  # this rank's own error
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the wrapped model: see `Ranks.wrap`
        reason = (ranks.link and ranks.link.loss) or one_line(error, 160)
        raise RankLostError(
            f"rank {ranks.rank} of {num_ranks}: another rank ended or fell silent ({reason}); read its message and "
            "start again: the work resumes from what is saved, with any number of ranks"
        ) from None
    finally:
        dist.destroy_process_group()


@contextmanager
def _linked(ranks: Ranks, environment: Mapping[str, str]) -> Iterator[Ranks]:
    """`ranks` with a lifeline, whose break ends what waits for other ranks.

    Raises:
        LaunchError: the others cannot be reached within `JOIN_TIMEOUT`.
    """
    if ranks.store is None:
        yield ranks
        return
    address = (environment["MASTER_ADDR"], int(environment["MASTER_PORT"]))
    with ExitStack() as stack:
        try:
            line = stack.enter_context(
                lifeline(ranks.store, address, ranks.rank, ranks.num_ranks, JOIN_TIMEOUT, _end_collectives)
            )
        except OSError as error:
            raise LaunchError(
                f"{described(environment)}: the ranks met, but cannot reach each other ({one_line(error, 160)}); let "
                "their machines open any port of each other"
            ) from None
        yield replace(ranks, link=line)


def _end_collectives() -> None:
    end_connections()
    if torch.cuda.is_available() and dist.group.WORLD is not None:
        dist.group.WORLD.abort()  # NCCL's, which need not be connections


def _shared_store(environment: Mapping[str, str]) -> dict[str, Any]:
    """The store through which the ranks find each other, and the rank in it, as arguments of `init_process_group`.

    Without an address it is empty, and torch names the missing variable.

    Raises:
        LaunchError: nobody answers at the address, its port is taken, or ranks are missing.
    """
    if "MASTER_ADDR" not in environment:
        return {}
    seconds = JOIN_TIMEOUT.total_seconds()
    names = described(environment)
    sys.stderr.write(f"training: {names}: waits for the other ranks, {seconds:.0f} s at most\n")
    try:
        store, rank, num_ranks = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
    except (dist.DistError, ValueError) as error:
        raise LaunchError(
            f"{names}: the ranks did not find each other within {seconds:.0f} s ({one_line(error, 160)}); start all of "
            "them at the same time with an address and a free port of rank 0, or unset these variables to train alone"
        ) from None
    store.set_timeout(_TIMEOUT)
    return {"store": store, "rank": rank, "world_size": num_ranks}


def _gather(block: Tensor) -> list[Tensor]:
    blocks = [torch.empty_like(block) for _ in range(dist.get_world_size())]
    dist.all_gather(blocks, block)
    return blocks


def _add_gradients(bucket: Any) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future
