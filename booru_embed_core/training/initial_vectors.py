"""Initial tag vectors from how often tags occur together, which training would otherwise learn first."""

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
"""The most used tags: pairs are counted in a dense matrix, 128 MiB of float64. Other tags start at random."""
_MAX_POSTS: Final = 2**19
_NO_VECTOR: Final = 1e-6
"""A tag that never occurs with another has a vector of rounding errors, so it starts at random too."""


@torch.no_grad()
def start_from_ppmi(model: SetEncoder, packed: PackedFile, vocab: Vocab, rows: NDArray[np.int64]) -> None:
    """Sets the vectors of tags to V √S of their PPMI ≈ U S Vᵀ in the posts `rows` (int64), or an even sample of them.

    The mean square length is 1, as that of the random vectors. The model is on the CPU. Numbers beyond the factors stay
    random.
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
