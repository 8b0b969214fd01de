"""Random batches from the packed file: every record once per epoch, in a seeded order, starting at any batch.

A batch is a pure function of ``(seed, epoch, index)``: there is no iterator state to save, and a resumed run reads the
same records. What belongs here: which records, and their arrays as torch tensors. The split into visible and hidden
tags is in ``model/objective``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from booru_embed_core.schema import RATINGS, SPLITS
from booru_embed_core.tokens.packed_file import PackedFile

_CACHED_ROWS: Final = 1 << 18


@dataclass(frozen=True)
class Batch:
    """A batch of whole records, packed end to end on one device."""

    tokens: Tensor
    """int32 ``[T]``: local ids, record after record, within a record category after category."""
    cu_seqlens: Tensor
    """int32 ``[N + 1]``: where each record's tokens start; the last is T."""
    field_lengths: Tensor
    """int64 ``[N, 5]``: tokens per category of each record."""
    post_index: Tensor
    """int64 ``[N]``: rows of the packed file."""
    ratings: Tensor
    """int64 ``[N]``: indices into ``schema.RATINGS``."""
    scores: Tensor
    """int64 ``[N]``: the posts' scores."""
    max_length: int
    """Tokens of the longest record."""

    def tag_indices(self, category_sizes: Sequence[int]) -> Tensor:
        """int64 ``[T]``: the tokens as tag indices, unique across categories.

        Args:
            category_sizes: number of tags per category in the vocab, in schema order.
        """
        starts = np.cumsum([0, *category_sizes[:-1]])
        if self.tokens.device.type != "cpu":
            return self._tag_indices_by_torch(torch.from_numpy(starts))
        # numpy's repeat takes a fifth of torch's time for runs as short as a field.
        lengths = self.field_lengths.numpy()
        indices = np.repeat(np.tile(starts, len(lengths)), lengths.ravel())
        indices += self.tokens.numpy()
        return torch.from_numpy(indices)

    def _tag_indices_by_torch(self, starts: Tensor) -> Tensor:
        each = starts.to(self.tokens.device, non_blocking=True).repeat(len(self.field_lengths))
        return torch.repeat_interleave(each, self.field_lengths.ravel(), output_size=len(self.tokens)) + self.tokens


class EpochBatches:
    """Batches of records over the rows `post_index`, in a new order each epoch; an epoch's last batch may be smaller.

    A batch takes records until the next one would exceed `batch_posts` or `batch_tokens`; one of the two may be None.
    A record that is longer than `batch_tokens` is a batch of its own. Threads may share an instance.

    Args:
        packed: the file; its pages are read as batches touch them.
        post_index: int64 ``[n]``, rows to draw from.
        batch_posts: maximum records per batch.
        seed: seeds the permutations.
        batch_tokens: maximum tokens per batch.
        read_rows: returns the batch of given rows; None reads them from `packed` onto the CPU.

    Raises:
        ValueError: no rows, no bound, or a bound below 1.
    """

    def __init__(
        self,
        packed: PackedFile,
        post_index: NDArray[np.int64],
        batch_posts: int | None,
        seed: int,
        batch_tokens: int | None = None,
        read_rows: Callable[[NDArray[np.int64]], Batch] | None = None,
    ) -> None:
        if len(post_index) == 0:
            raise ValueError(f"{packed.path}: no records to draw batches from; lower the validation and test shares")
        bounds = [bound for bound in (batch_posts, batch_tokens) if bound is not None]
        if not bounds or min(bounds) < 1:
            raise ValueError(f"batch_posts {batch_posts}, batch_tokens {batch_tokens}: give one of them, 1 or more")
        self.packed = packed
        self.post_index = post_index
        self.batch_posts = batch_posts
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.read_rows = read_rows or partial(read_batch, packed)
        self._last: _Epoch | None = None

    def __len__(self) -> int:
        """Number of batches per epoch.

        Raises:
            TypeError: batches are bounded by tokens, so their number depends on the epoch.
        """
        if self.batch_posts is None or self.batch_tokens is not None:
            raise TypeError("batches bounded by tokens: their number differs between epochs; call num_batches(epoch)")
        return -(-len(self.post_index) // self.batch_posts)

    def num_batches(self, epoch: int) -> int:
        """Number of batches in `epoch`, counted from 0."""
        return len(self) if self.batch_tokens is None else len(self._epoch(epoch).starts) - 1

    def rows(self, epoch: int, index: int) -> NDArray[np.int64]:
        """int64 ``[n]``: the packed file's rows of batch `index` of `epoch`.

        Raises:
            IndexError: there is no such batch.
        """
        if epoch < 0 or not 0 <= index < self.num_batches(epoch):
            num = self.num_batches(max(epoch, 0))
            raise IndexError(f"batch {index} of epoch {epoch}: the epoch has {num} batches; count from 0")
        drawn = self._epoch(epoch)
        return drawn.order[drawn.starts[index] : drawn.starts[index + 1]].astype(np.int64)

    def read(self, epoch: int, index: int) -> Batch:
        """Batch `index` of `epoch`."""
        return self.read_rows(self.rows(epoch, index))

    def read_from(self, epoch: int, index: int, num_epochs: int) -> Iterator[Batch]:
        """All batches from batch `index` of `epoch` to the end of epoch ``num_epochs - 1``."""
        for later in range(epoch, num_epochs):
            for batch in range(index if later == epoch else 0, self.num_batches(later)):
                yield self.read(later, batch)

    def _epoch(self, epoch: int) -> _Epoch:
        last = self._last
        if last is None or last.epoch != epoch:
            last = self._last = self._draw(epoch)  # one assignment: other threads see the old epoch or the new one
        return last

    def _draw(self, epoch: int) -> _Epoch:
        # 32 bits suffice and take two thirds of the time.
        order = shuffled(self.post_index.astype(np.uint32), np.random.default_rng([self.seed, epoch]))
        return _Epoch(epoch, order, batch_starts(self.packed, order, self.batch_posts, self.batch_tokens))


@dataclass(frozen=True)
class _Epoch:
    """The order of an epoch's records and where its batches start."""

    epoch: int
    order: NDArray[np.uint32]
    starts: NDArray[np.int64]
    """int64 ``[batches + 1]``: indices into `order`."""


def shuffled(rows: NDArray[np.uint32], generator: np.random.Generator) -> NDArray[np.uint32]:
    """`rows` (uint32 ``[n]``, overwritten) in a uniformly random order.

    Long arrays are dealt onto random piles, and each pile is shuffled (Rao 1961, Sandelius 1962), since swaps across
    23 MB would miss the cache. 5.8 million rows take 40 ns each instead of 70.
    """
    if len(rows) <= _CACHED_ROWS:
        generator.shuffle(rows)
        return rows
    piles = np.frombuffer(generator.bytes(len(rows)), np.uint8)
    rows = rows.take(np.argsort(piles, kind="stable"))
    for pile in np.split(rows, np.cumsum(np.bincount(piles, minlength=256))[:-1]):
        generator.shuffle(pile)
    return rows


def batch_starts(
    packed: PackedFile, rows: NDArray[Any], batch_posts: int | None, batch_tokens: int | None
) -> NDArray[np.int64]:
    """int64 ``[batches + 1]``: batch boundaries in `rows`; each batch takes as many rows as its bounds allow.

    Args:
        packed: the file.
        rows: unsigned or int64 ``[n]``, in the order of batches.
        batch_posts: maximum records per batch.
        batch_tokens: maximum tokens per batch; a longer record is a batch of its own. One of the two may be None.
    """
    if batch_tokens is not None:
        lengths = np.diff(packed.offsets).astype(np.int64)[rows]
        return _starts_by_tokens(lengths, batch_tokens, batch_posts or len(rows))
    assert batch_posts is not None
    return np.append(np.arange(0, len(rows), batch_posts), len(rows))


def _starts_by_tokens(lengths: NDArray[np.int64], batch_tokens: int, batch_posts: int) -> NDArray[np.int64]:
    """int64 ``[batches + 1]``: batch boundaries if each batch takes as many of `lengths` as the bounds allow."""
    ends = np.cumsum(lengths)
    starts = [0]
    while (start := starts[-1]) < len(lengths):
        limit = (int(ends[start - 1]) if start else 0) + batch_tokens
        fitting = int(np.searchsorted(ends, limit, side="right"))
        starts.append(min(max(fitting, start + 1), start + batch_posts))
    return np.array(starts, dtype=np.int64)


def read_batch(packed: PackedFile, rows: NDArray[np.int64]) -> Batch:
    """The records `rows` (int64 ``[N]``) of the packed file, in that order.

    Raises:
        IndexError: the file has no such row.
    """
    taken = packed.records.take(rows)
    _, ends, content = (memoryview(buffer) if buffer else b"" for buffer in taken.buffers())
    dtype = packed.tokens.dtype
    cu_seqlens = (np.frombuffer(ends, np.int64, len(rows) + 1) // dtype.itemsize).astype(np.int32)
    tokens = np.frombuffer(content, dtype, cu_seqlens[-1]) if len(content) else np.empty(0, dtype)
    fields = packed.record_fields.take(rows)
    return Batch(
        tokens=torch.from_numpy(tokens.astype(np.int32)),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        field_lengths=torch.from_numpy(fields["field_lengths"].astype(np.int64)),
        post_index=torch.from_numpy(rows),
        ratings=torch.from_numpy(fields["rating"].astype(np.int64)),
        scores=torch.from_numpy(fields["score"].astype(np.int64)),
        max_length=int(np.diff(cu_seqlens).max(initial=0)),
    )


def rows_of_split(packed: PackedFile, split: str) -> NDArray[np.int64]:
    """int64: the rows of the packed file that belong to `split`, one of ``schema.SPLITS``."""
    return np.flatnonzero(packed.split_ids() == SPLITS.index(split)).astype(np.int64)


def ratings_of(packed: PackedFile, rows: NDArray[np.int64]) -> tuple[str, ...]:
    """The ratings that occur among `rows`, in the order of ``schema.RATINGS``."""
    return tuple(RATINGS[rating_id] for rating_id in np.unique(packed.rating[rows]))
