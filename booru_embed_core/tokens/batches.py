"""Random batches from the packed file: every record once an epoch, in a seeded order, from any batch on.

A batch is a pure function of ``(seed, epoch, index)``: there is no iterator state to save, and a resumed run or another
number of ranks reads the same records. What belongs here: which records, and their arrays as torch tensors. Not the
split into visible and hidden tags, which is the objective's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from booru_embed_core.schema import NUM_CATEGORIES, NUM_SCORE_BINS, RATINGS, SPLITS
from booru_embed_core.tokens.packed_file import PackedFile


@dataclass(frozen=True)
class Batch:
    """Whole records, end to end, on the CPU."""

    tokens: Tensor
    """int32 ``[T]``: local ids, record after record, within a record category after category."""
    field_lengths: Tensor
    """int64 ``[N, 5]``: tokens of each category of each record."""
    post_index: Tensor
    """int64 ``[N]``: rows of the packed file."""
    ratings: Tensor
    """int64 ``[N]``."""
    scores: Tensor
    """int64 ``[N]``."""
    max_length: int
    """Tokens of the longest record."""

    def tag_indices(self, category_sizes: Sequence[int]) -> Tensor:
        """int64 ``[T]``: the tokens as tag indices, unique across categories.

        Args:
            category_sizes: tags of each category in the vocab, in schema order.
        """
        starts = torch.tensor([0, *category_sizes[:-1]]).cumsum(0)
        lengths = self.field_lengths.view(-1)
        offsets = torch.repeat_interleave(starts.repeat(len(self.field_lengths)), lengths, output_size=len(self.tokens))
        return self.tokens.long() + offsets


class EpochBatches:
    """Batches of `batch_posts` records over the rows `post_index`; the last batch of an epoch may be smaller.

    Args:
        packed: the file; its pages are read as batches touch them.
        post_index: int64 ``[n]``, rows to draw from, such as the training split's.
        batch_posts: records in a batch, over all ranks.
        seed: of the permutations.
    """

    def __init__(self, packed: PackedFile, post_index: NDArray[np.int64], batch_posts: int, seed: int) -> None:
        if len(post_index) == 0:
            raise ValueError(f"{packed.path}: no record to draw batches from; lower the validation and test shares")
        self.packed = packed
        self.post_index = post_index
        self.batch_posts = batch_posts
        self.seed = seed
        self._epoch = -1
        self._order: NDArray[np.int64] = post_index

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.post_index) // self.batch_posts)

    def rows(self, epoch: int, index: int, rank: int = 0, num_ranks: int = 1) -> NDArray[np.int64]:
        """int64 ``[n]``: the packed file's rows of batch `index` of `epoch`, or `rank`'s share of them.

        Raises:
            IndexError: there is no such batch.
        """
        if epoch < 0 or not 0 <= index < len(self):
            raise IndexError(f"batch {index} of epoch {epoch}: there are {len(self)} batches an epoch, counted from 0")
        if epoch != self._epoch:
            self._order = self.post_index[np.random.default_rng([self.seed, epoch]).permutation(len(self.post_index))]
            self._epoch = epoch
        batch = self._order[index * self.batch_posts : (index + 1) * self.batch_posts]
        return batch[rank::num_ranks]

    def read(self, epoch: int, index: int, rank: int = 0, num_ranks: int = 1) -> Batch:
        """Batch `index` of `epoch`, or `rank`'s share of it."""
        return read_batch(self.packed, self.rows(epoch, index, rank, num_ranks))


def read_batch(packed: PackedFile, rows: NDArray[np.int64]) -> Batch:
    """The records `rows` (int64 ``[N]``) of the packed file, in that order."""
    starts = packed.offsets[rows].astype(np.int64)
    lengths = packed.offsets[rows + 1].astype(np.int64) - starts
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    positions = np.repeat(starts - (ends - lengths), lengths) + np.arange(total)
    return Batch(
        tokens=torch.from_numpy(packed.tokens.take(positions).astype(np.int32)),
        field_lengths=torch.from_numpy(packed.field_lengths[rows].astype(np.int64).reshape(-1, NUM_CATEGORIES)),
        post_index=torch.from_numpy(rows),
        ratings=torch.from_numpy(packed.rating[rows].astype(np.int64)),
        scores=torch.from_numpy(packed.score[rows].astype(np.int64)),
        max_length=int(lengths.max(initial=0)),
    )


def rows_of_split(packed: PackedFile, split: str) -> NDArray[np.int64]:
    """int64: the rows of the packed file that belong to `split`, one of ``schema.SPLITS``."""
    return np.flatnonzero(packed.split_ids() == SPLITS.index(split)).astype(np.int64)


def score_bin_edges(packed: PackedFile, rows: NDArray[np.int64]) -> list[list[float]]:
    """For each rating the 9 inner decile edges of the scores among `rows`; zeros for a rating that has no post.

    Scores of different ratings are not comparable: the median of explicit posts is near the best tenth of general ones.
    """
    shares = np.arange(1, NUM_SCORE_BINS) / NUM_SCORE_BINS
    ratings, scores = packed.rating[rows], packed.score[rows]
    edges = []
    for rating_id in range(len(RATINGS)):
        of_rating = scores[ratings == rating_id]
        edges.append(np.quantile(of_rating, shares, method="lower").tolist() if len(of_rating) else [0.0] * len(shares))
    return edges


def score_bins(edges: list[list[float]], ratings: Tensor, scores: Tensor) -> Tensor:
    """int64 ``[N]``: the decile (0 to 9) of each score among the training posts of its rating.

    Args:
        edges: as `score_bin_edges` gives them.
        ratings: int64 ``[N]``.
        scores: int64 ``[N]``.
    """
    table = torch.tensor(edges, dtype=torch.float64)
    return (scores[:, None].double() >= table[ratings]).sum(1)
