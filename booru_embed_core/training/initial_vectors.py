"""Initial tag vectors from co-occurrence counts, which training would otherwise have to learn first.

``"correlation"`` also has the network pass them on: it starts as a mean of tag vectors that are factors of the tags'
correlation, in its embedding as in its scores, and training departs from there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.cooccurrence import (
    Cooccurrence,
    PackedCaptions,
    count_cooccurrence,
    ppmi_factors,
    truncated_svd,
)
from booru_embed_core.tokens.packed_file import PackedFile

_MAX_TAGS: Final = 4096
"""Number of most used tags whose pairs are counted, in a dense float64 matrix of 128 MiB and one of counts of 64 MiB.
Other tags start at random."""
_MAX_POSTS: Final = 2**19
_NO_VECTOR: Final = 1e-6
"""Below this length a vector is rounding error: the tag never occurs with another, and starts at random too."""
_NO_VARIANCE: Final = 1e-12
_CHUNK_TAGS: Final = 512
_POOL_GAIN: Final = 6.0
"""How much the mean of a set's tags outweighs the summary token in its state before training."""


def start_from_ppmi(model: SetEncoder, packed: PackedFile, vocab: Vocab, rows: NDArray[np.int64]) -> None:
    """Sets the vectors of tags to V √S of their PPMI ≈ U S Vᵀ in the posts `rows` (int64), or an even sample of them.

    Their mean squared length is 1, like that of the random vectors. Dimensions beyond the number of factors stay
    random. `model` must be on the CPU.
    """
    pairs = _counted(packed, vocab, rows)
    _, singular, right = ppmi_factors(pairs, model.config.settings.width)
    _set_vectors(model, pairs, right * np.sqrt(singular))


def start_from_correlation(model: SetEncoder, packed: PackedFile, vocab: Vocab, rows: NDArray[np.int64]) -> None:
    """Sets the vectors of tags to V √S of their correlation V S Vᵀ, and has the network pass them on.

    The product of two tags' vectors is then about their correlation over the posts `rows` (int64), or an even sample of
    them. Lengths are as in `start_from_ppmi`. `model` must be on the CPU.
    """
    pairs = _counted(packed, vocab, rows)
    if _set_vectors(model, pairs, correlation_factors(pairs, model.config.settings.width)):
        _pass_vectors_on(model)


def correlation_factors(pairs: Cooccurrence, dim: int) -> NDArray[np.float64]:
    """V √S, float64 ``[m, dim]``, of the fitted tags' correlation V S Vᵀ, greatest first; 0 for a constant tag."""
    shares = pairs.counts[pairs.fitted] / max(1, pairs.num_posts)
    correlation = pairs.together / float(max(1, pairs.num_posts))
    variances = correlation.diagonal() - np.square(shares)
    varies = variances > _NO_VARIANCE
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, variances, 1)), 0)
    for start in range(0, len(shares), _CHUNK_TAGS):
        chunk = slice(start, start + _CHUNK_TAGS)
        correlation[chunk] = (correlation[chunk] - np.outer(shares[chunk], shares)) * np.outer(scale[chunk], scale)
    _, singular, right = truncated_svd(correlation, dim)
    return right * np.sqrt(singular)


def _counted(packed: PackedFile, vocab: Vocab, rows: NDArray[np.int64]) -> Cooccurrence:
    """The pairs of the most used tags in the posts `rows`, or in an even sample of them."""
    step = -(-len(rows) // _MAX_POSTS) or 1
    return count_cooccurrence(PackedCaptions(packed, vocab, rows[::step], is_restored=False), _MAX_TAGS)


@torch.no_grad()
def _set_vectors(model: SetEncoder, pairs: Cooccurrence, vectors: NDArray[np.float64]) -> bool:
    """Sets the vectors of the fitted tags of `pairs` that have one in `vectors`; whether any has."""
    square_lengths = np.square(vectors).sum(axis=1)
    found = np.flatnonzero(square_lengths > _NO_VECTOR**2)
    if not len(found):
        return False
    vectors = vectors[found] / np.sqrt(square_lengths[found].mean())
    tokens = torch.from_numpy(pairs.fitted[found] + model.config.num_special)
    model.tokens.weight[tokens, : vectors.shape[1]] = torch.from_numpy(vectors).float()
    return True


@torch.no_grad()
def _pass_vectors_on(model: SetEncoder) -> None:
    """Makes the pool add the mean of the tags' states, and bottleneck and decoder keep its first numbers.

    The factors are in order, so each prefix of the embedding starts as the best of its length. A head pools every
    `num_heads`-th factor: each has strong and weak ones.
    """
    attention, width = model.pool.attention, model.config.settings.width
    if attention is not None:  # the control's pool is a mean anyway
        channels = torch.arange(width).view(attention.head_dim, attention.num_heads).T.reshape(-1)
        values = torch.eye(width)[channels] * _POOL_GAIN**0.5
        attention.key_value.weight[width:] = values
        attention.output.weight.copy_(values.T)
    nn.init.eye_(model.bottleneck.weight)
    nn.init.eye_(model.decoder_in.weight)
