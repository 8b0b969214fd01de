"""A trained table of tag vectors: a caption is the mean of its visible tags, scored against the same table.

It follows dart2vec, whose vectors are the tied input and output embeddings of a model that continues shuffled captions.
Here the mean of the tags so far replaces that model's layers, so the table is the only parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch.nn import functional as F

from booru_embed_core.evaluation.tag_vectors import Rule, TagVectors, tag_vectors
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, Cooccurrence
from booru_embed_core.vectors import unit_vectors

TAG_TABLE_DIM: Final = 128
TAG_TABLE_EPOCHS: Final = (1, 2, 4)
"""The table after so many epochs is tried on validation."""

_SEED: Final = 7
_BATCH_POSTS: Final = 512
_LEARNING_RATE: Final = 3e-2


class TagTable:
    """A table that is trained one epoch at a time."""

    def __init__(self, pairs: Cooccurrence, train: CaptionMatrix, dim: int, num_epochs: int) -> None:
        self.pairs = pairs
        self._train = pairs.select(train).tocsr()
        self._num_epochs = num_epochs
        self._numbers = np.random.default_rng(_SEED)
        start = self._numbers.normal(size=(len(pairs.fitted), dim)) * dim**-0.5
        self._table = torch.tensor(start, dtype=torch.float32, requires_grad=True)

    def scorer(self, rule: Rule) -> TagVectors:
        """``"product"``: the scores of training; ``"cosine"``: output vectors scaled to unit length."""
        table = self._table.detach().numpy().copy()
        return tag_vectors("tag_table", self.pairs, table, unit_vectors(table) if rule == "cosine" else table)

    def epochs(self) -> Iterator[int]:
        """Trains one epoch at a time and yields the number of finished epochs.

        Each caption is shuffled and cut at a random place; the tags before the cut predict those after it. The loss is
        the mean over hidden tags of the cross-entropy against all tags but the visible ones. The optimizer is Adam with
        a learning rate that falls linearly to zero.
        """
        optimizer = torch.optim.Adam([self._table], _LEARNING_RATE)
        lengths = np.diff(self._train.indptr)
        eligible = np.flatnonzero(lengths >= 2)
        num_steps = max(1, self._num_epochs * -(-len(eligible) // _BATCH_POSTS))
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_steps)
        for epoch in range(1, self._num_epochs + 1):
            order = self._numbers.permutation(eligible)
            for first in range(0, len(order), _BATCH_POSTS):
                loss = self._loss(order[first : first + _BATCH_POSTS])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
            yield epoch

    def _loss(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
        batch = self._train[rows].tocsr()
        lengths = np.diff(batch.indptr)
        posts = np.repeat(np.arange(len(rows)), lengths)
        order = np.lexsort((self._numbers.random(batch.nnz), posts))
        ranks = np.arange(batch.nnz) - batch.indptr[posts]
        num_visible = self._numbers.integers(1, lengths)
        is_visible = ranks < num_visible[posts]
        tags = batch.indices[order].astype(np.int64)
        visible, hidden = (
            (torch.from_numpy(posts[chosen]), torch.from_numpy(tags[chosen])) for chosen in (is_visible, ~is_visible)
        )
        offsets = torch.from_numpy(np.cumsum(num_visible) - num_visible)
        means = F.embedding_bag(visible[1], self._table, offsets, mode="mean")
        scores = (means @ self._table.T).index_put(visible, torch.tensor(-torch.inf))
        losses = -scores.log_softmax(dim=1)[hidden]
        return (losses / torch.from_numpy(lengths - num_visible)[hidden[0]]).sum() / len(rows)
