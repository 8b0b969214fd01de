"""A network that was trained without implied tags (``[tokens] drop_implied``) gets captions without them too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import Network, TagSets
from booru_embed_core.tags.vocab import Vocab

if TYPE_CHECKING:
    from booru_embed_core.training.checkpoint_config import CheckpointConfig


class ReducedNetwork:
    """`network` for sets of any tags: those that another tag of the set implies are left out, with their weights."""

    def __init__(self, network: Network, vocab: Vocab) -> None:
        self.inner = network
        self._implications = vocab.implications

    def embeddings(self, sets: TagSets) -> NDArray[np.float32]:
        """As `Network.embeddings`."""
        return self.inner.embeddings(self._reduced(sets))

    def tag_scores(self, sets: TagSets) -> NDArray[np.float32]:
        """As `Network.tag_scores`."""
        return self.inner.tag_scores(self._reduced(sets))

    def token_states(self, sets: TagSets) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """As `Network.token_states`; implied tags have no state."""
        return self.inner.token_states(self._reduced(sets))

    def _reduced(self, sets: TagSets) -> TagSets:
        keep = self._implications.is_kept(sets.tags, sets.lengths)
        rows = np.repeat(np.arange(len(sets.lengths)), sets.lengths)
        lengths = np.bincount(rows[keep], minlength=len(sets.lengths))
        weights = None if sets.weights is None else sets.weights[keep]
        return replace(sets, tags=sets.tags[keep], lengths=lengths, weights=weights)


def as_trained(network: Network, config: CheckpointConfig, vocab: Vocab) -> Network:
    """`network`, which gets sets without implied tags if it was trained on such."""
    is_reduced = isinstance(network, ReducedNetwork)
    return ReducedNetwork(network, vocab) if config.splits.drop_implied and not is_reduced else network
