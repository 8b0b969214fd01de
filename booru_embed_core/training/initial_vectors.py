"""Initial tag vectors from co-occurrence counts, which training would otherwise have to learn first."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.cooccurrence import PackedCaptions, count_cooccurrence, ppmi_factors
from booru_embed_core.tokens.packed_file import PackedFile

_MAX_TAGS: Final = 4096
"""Number of most used tags whose pairs are counted, in a dense float64 matrix of 128 MiB and one of counts of 64 MiB.
Other tags start at random."""
_MAX_POSTS: Final = 2**19
_NO_VECTOR: Final = 1e-6
"""Below this length a vector is rounding error: the tag never occurs with another, and starts at random too."""


@torch.no_grad()
def start_from_ppmi(model: SetEncoder, packed: PackedFile, vocab: Vocab, rows: NDArray[np.int64]) -> None:
    """Sets the vectors of tags to V √S of their PPMI ≈ U S Vᵀ in the posts `rows` (int64), or an even sample of them.

    Their mean squared length is 1, like that of the random vectors. Dimensions beyond the number of factors stay
    random. `model` must be on the CPU.
    """
    step = -(-len(rows) // _MAX_POSTS) or 1
    pairs = count_cooccurrence(PackedCaptions(packed, vocab, rows[::step], is_restored=False), _MAX_TAGS)
    _, singular, right = ppmi_factors(pairs, model.config.settings.width)
    vectors = right * np.sqrt(singular)
    square_lengths = np.square(vectors).sum(axis=1)
    found = np.flatnonzero(square_lengths > _NO_VECTOR**2)
    if not len(found):
        return
    vectors = vectors[found] / np.sqrt(square_lengths[found].mean())
    tokens = torch.from_numpy(pairs.fitted[found] + vocab.num_special)
    model.tokens.weight[tokens, : vectors.shape[1]] = torch.from_numpy(vectors).float()
