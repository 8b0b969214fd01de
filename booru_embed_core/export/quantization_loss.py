"""The loss from quantizing a network's weights, by the project's own evaluation on test posts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import Network, TagSets
from booru_embed_core.evaluation.metrics import HEADLINE, evaluate_scorer, split_half_recall
from booru_embed_core.evaluation.tasks import HIDES, hold_out, sample_rows, split_halves
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, captions_from_packed
from booru_embed_core.tokens.packed_file import PackedFile

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab

_SPLIT_HALF: Final = "split-half retrieval (R@1)"
_TITLES: Final = {"one": f"{HEADLINE}, one tag hidden", "half": f"{HEADLINE}, half of the tags hidden"}


class NetworkScorer:
    """A `Network` as a scorer of the evaluation: its completion head and its embeddings, without ratings and scores."""

    def __init__(self, name: str, network: Network) -> None:
        self.name = name
        self._network = network

    def scores(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        """Scores float32 ``[n, num_tags]`` for the visible tags ``[n, num_tags]``."""
        return self._network.tag_scores(_sets(visible))

    def embed(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        """Embeddings float32 ``[n, E]``."""
        return self._network.embeddings(_sets(visible))


def recall_by_network(networks: Mapping[str, Network], tokens: Path, vocab: Vocab) -> dict[str, dict[str, float]]:
    """Metric → name of a network → recall, on the test posts of the packed file `tokens`.

    The posts and their hidden tags are those of the asset ``evaluation`` with default settings.

    Raises:
        ValueError: no test post has two tags of the vocabulary.
    """
    settings = EvaluationSettings()
    packed = PackedFile.open(tokens, vocab.hash)
    rows = sample_rows(packed, "test", settings)
    captions, post_ids = captions_from_packed(packed, vocab, rows), packed.post_id[rows]
    scorers = [NetworkScorer(name, network) for name, network in networks.items()]
    found = {}
    for hide in HIDES:
        held_out = hold_out(captions, post_ids, hide, settings.seed, vocab.is_unknown)
        found[_TITLES[hide]] = {scorer.name: evaluate_scorer(scorer, held_out)[HEADLINE] for scorer in scorers}
    one, other = split_halves(captions, post_ids, settings.seed, vocab.is_unknown)
    found[_SPLIT_HALF] = {scorer.name: split_half_recall(scorer.embed(one), scorer.embed(other)) for scorer in scorers}
    return found


def _sets(visible: CaptionMatrix) -> TagSets:
    lengths = np.diff(visible.indptr).astype(np.int64)
    return TagSets.without_metadata(visible.indices.astype(np.int64), lengths)
