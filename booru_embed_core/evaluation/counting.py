"""What is counted in the training posts: tags, pairs of tags, and implications. Ranks share the posts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from booru_embed_core.evaluation.implied import implied_pairs
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.cooccurrence import Cooccurrence, PackedCaptions, count_cooccurrence, count_tags
from booru_embed_core.training.parts import Arrays, Parts

if TYPE_CHECKING:
    from booru_embed_core.evaluation.implied import Implications
    from booru_embed_core.training.distributed import Ranks

_BLOCK_POSTS: Final = 65_536


def counted_pairs(train: PackedCaptions, settings: EvaluationSettings, parts: Parts) -> Cooccurrence:
    """Counts of `train`, and of the pairs of its ``max_fitted_tags`` most used tags: one part."""

    def compute() -> Arrays:
        own = replace(train, rows=train.rows[_own_posts(len(train.rows), parts.ranks)])
        counts = parts.ranks.sum(torch.from_numpy(count_tags(own))).numpy()
        pairs = count_cooccurrence(own, settings.max_fitted_tags, counts)
        together = parts.ranks.sum(torch.from_numpy(pairs.together)).numpy()
        return {"counts": pairs.counts, "fitted": pairs.fitted, "together": together}

    found = parts.together("pairs", compute)
    return Cooccurrence(found["counts"], train.shape[0], found["fitted"], found["together"])


def counted_implications(
    train: PackedCaptions, settings: EvaluationSettings, pairs: Cooccurrence, parts: Parts
) -> Implications:
    """The `implied_pairs` of `train`, whose counts are `pairs`: one part."""

    def compute() -> Arrays:
        threshold, min_count = settings.implied_threshold, settings.implied_min_count
        implied = implied_pairs(train, threshold, min_count, pairs, parts.ranks)
        return {"indices": implied.indices, "indptr": implied.indptr}

    found = parts.together("implied", compute)
    shape = (len(pairs.counts), len(pairs.counts))
    return sparse.csr_matrix((np.ones(len(found["indices"]), np.bool_), found["indices"], found["indptr"]), shape=shape)


def _own_posts(num_posts: int, ranks: Ranks) -> NDArray[np.bool_]:
    """The posts that this one of `ranks` counts, bool[num_posts]: every n-th block."""
    own: NDArray[np.bool_] = np.arange(num_posts) // _BLOCK_POSTS % ranks.num_ranks == ranks.rank
    return own
