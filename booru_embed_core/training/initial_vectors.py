"""What tag vectors start from: how often tags stand together, which training would otherwise find out first."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.cooccurrence import captions_from_packed, count_cooccurrence, ppmi_factors
from booru_embed_core.tokens.packed_file import PackedFile

_MAX_TAGS: Final = 4096
"""The most used ones: pairs are counted in a dense matrix, 128 MiB of float64. The others start at random."""
_MAX_POSTS: Final = 2**19
_NO_VECTOR: Final = 1e-6
"""A tag that never stands beside another comes out as nothing but rounding: it starts at random too."""


@torch.no_grad()
def start_from_ppmi(model: SetEncoder, packed: PackedFile, vocab: Vocab, rows: NDArray[np.int64]) -> None:
    """Sets the vectors of tags to V √S of their PPMI ≈ U S Vᵀ in the posts `rows`, int64, or an even share of them.

    The model, on the CPU, has random vectors with a mean square length of 1, and so have these. Where the vectors have
    more numbers than there are factors, the rest stay random.
    """
    step = -(-len(rows) // _MAX_POSTS) or 1
    pairs = count_cooccurrence(captions_from_packed(packed, vocab, rows[::step]), _MAX_TAGS)
    _, singular, right = ppmi_factors(pairs, model.config.settings.width)
    vectors = right * np.sqrt(singular)
    square_lengths = np.square(vectors).sum(axis=1)
    found = np.flatnonzero(square_lengths > _NO_VECTOR**2)
    if not len(found):
        return
    vectors = vectors[found] / np.sqrt(square_lengths[found].mean())
    tokens = torch.from_numpy(pairs.fitted[found] + vocab.num_special)
    model.tokens.weight[tokens, : vectors.shape[1]] = torch.from_numpy(vectors).float()
