"""The loss from quantizing a network's weights, by the project's own evaluation on some of the test posts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import Network, TagSets
from booru_embed_core.evaluation.metrics import HEADLINE, metrics_of_ranks, rank_hidden
from booru_embed_core.evaluation.tasks import HIDES, hold_out, sample_rows, split_halves
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, captions_from_packed
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.vectors import unit_vectors

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab

LOSS_POSTS: Final = 1000
"""Test posts: both networks score them in a minute at 189,000 tags, and recall differs by .001 to .003 by chance."""
_SPLIT_HALF: Final = "split-half retrieval (R@1)"
_TITLES: Final = {"one": f"{HEADLINE}, one tag hidden", "half": f"{HEADLINE}, half of the tags hidden"}
_QUERIES: Final = 1024


class Compared(NamedTuple):
    """A recall by two networks on the same posts.

    Attributes:
        exact: of the first network.
        rounded: of the second one.
        standard_error: of their difference, which is paired by post.
    """

    exact: float
    rounded: float
    standard_error: float

    @property
    def difference(self) -> float:
        """Of the second network's recall from the first one's."""
        return self.rounded - self.exact


@dataclass(frozen=True)
class QuantizationLoss:
    """The recall of a network and of its quantized form: `num_posts` test posts, and `recall` by metric."""

    num_posts: int
    recall: dict[str, Compared]


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


def quantization_loss(
    exact: Callable[[], Network],
    rounded: Callable[[], Network],
    tokens: Path,
    vocab: Vocab,
    max_posts: int = LOSS_POSTS,
) -> QuantizationLoss:
    """The recall of two networks on the same test posts of the packed file `tokens`.

    The posts are the first `max_posts` of those that the asset ``evaluation`` draws with default settings, and hide
    the same tags. The networks are loaded one after the other.

    Raises:
        ValueError: no test post has two tags of the vocabulary.
    """
    settings = EvaluationSettings(max_posts=max_posts)
    packed = PackedFile.open(tokens, vocab.hash)
    rows = sample_rows(packed, "test", settings)
    captions, post_ids = captions_from_packed(packed, vocab, rows), packed.post_id[rows]
    first, second = (
        _recall_of_posts(load(), captions, post_ids, vocab.is_unknown, settings.seed) for load in (exact, rounded)
    )
    if not all(len(of_posts) for of_posts in first.values()):
        raise ValueError(f"{tokens}: no test post has two tags of the vocabulary; leave --tokens out")
    return QuantizationLoss(len(rows), {metric: _compared(first[metric], second[metric]) for metric in first})


def _recall_of_posts(
    network: Network,
    captions: CaptionMatrix,
    post_ids: NDArray[np.int64],
    is_unknown: NDArray[np.bool_],
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """By metric, the recall of each post that the task takes, float64 ``[n]``."""
    scorer = NetworkScorer("network", network)
    found = {}
    for hide in HIDES:
        held_out = hold_out(captions, post_ids, hide, seed, is_unknown)
        (ranked,) = rank_hidden(scorer, [held_out])
        found[_TITLES[hide]] = metrics_of_ranks(ranked.ranks, held_out.hidden)[HEADLINE]
    one, other = (unit_vectors(scorer.embed(half)) for half in split_halves(captions, post_ids, seed, is_unknown))
    found[_SPLIT_HALF] = (_is_nearest(one, other) + _is_nearest(other, one)) / 2
    return found


def _is_nearest(queries: NDArray[np.float32], keys: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 for each query that is nearest to the key of its own row, else 0: `metrics.split_half_recall` by post."""
    nearest = [
        (queries[start : start + _QUERIES] @ keys.T).argmax(axis=1) for start in range(0, len(queries), _QUERIES)
    ]
    hits: NDArray[np.float64] = np.equal(np.concatenate([np.empty(0, np.int64), *nearest]), np.arange(len(queries)))
    return hits.astype(np.float64)


def _compared(exact: NDArray[np.float64], rounded: NDArray[np.float64]) -> Compared:
    differences = rounded - exact
    error = float(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else float("nan")
    return Compared(float(exact.mean()), float(rounded.mean()), error)


def _sets(visible: CaptionMatrix) -> TagSets:
    lengths = np.diff(visible.indptr).astype(np.int64)
    return TagSets.without_metadata(visible.indices.astype(np.int64), lengths)
