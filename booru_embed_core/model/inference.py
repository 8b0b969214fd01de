"""Encodes many sets in bounded memory, for evaluation and serving."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from booru_embed_core.model.attention import SetLayout, order_by_length, pick_backend
from booru_embed_core.model.dense import DenseEncoder
from booru_embed_core.model.encoder import SetEncoder, token_order
from booru_embed_core.model.objective import read_tokens

BATCH_TOKENS: Final = 32_768
"""Tokens per forward pass on a GPU: 100 MB of states at width 512 in float32."""
CPU_BATCH_TOKENS: Final = 2048
"""Tokens per forward pass on a CPU. More do not fit the cache: twice as many take a sixth longer in float32."""


def inference_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a GPU, for the flash kernels; float32 on a CPU, where results are independent of order and batch."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@torch.inference_mode()
def encode_sets(
    model: SetEncoder,
    tags: NDArray[np.int64],
    lengths: NDArray[np.int64],
    ratings: NDArray[np.int64] | None = None,
    score_bins: NDArray[np.int64] | None = None,
    batch_tokens: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The pooled state of each set, float32 ``[S, d]`` on the model's device, in the order of the input.

    Args:
        model: in evaluation mode.
        tags: int64 ``[T]`` tag indices (``token_id - num_special``), set after set.
        lengths: int64 ``[S]`` tags per set, 0 allowed.
        ratings: int64 ``[S]``, -1 for none.
        score_bins: int64 ``[S]`` score deciles, -1 for none.
        batch_tokens: maximum tokens per forward pass; a longer set gets a pass of its own. None is the device's
            default.
        dtype: the trunk's compute dtype; None is `inference_dtype`.
    """
    device = model.tag_bias.device
    on_cpu = device.type == "cpu"
    num_tags = model.config.num_tags
    dtype = dtype or inference_dtype(device)
    batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if on_cpu else BATCH_TOKENS)
    dense = DenseEncoder(model, _distinct(tags, model), dtype) if on_cpu else None
    pooled = torch.empty(len(lengths), model.config.settings.width, dtype=torch.float32, device=device)
    starts = np.cumsum(lengths) - lengths
    seen = lengths + 1 + sum((given >= 0).astype(np.int64) for given in (ratings, score_bins) if given is not None)
    order = np.argsort(seen, kind="stable")
    for chunk in _chunks(seen[order], batch_tokens):
        sets = order[chunk]
        positions = np.repeat(starts[sets] - (np.cumsum(lengths[sets]) - lengths[sets]), lengths[sets])
        positions += np.arange(len(positions))
        owners = np.repeat(np.arange(len(sets)), lengths[sets])
        # Tags are sorted within each set, so that the result does not depend on their order, even in bf16.
        sorted_tags = np.sort(owners * num_tags + tags[positions]) % num_tags
        token_ids, seen_lengths = read_tokens(
            torch.from_numpy(sorted_tags).to(device),
            torch.from_numpy(owners).to(device),
            len(sets),
            model.config.num_special,
            None if ratings is None else torch.from_numpy(ratings[sets]).to(device),
            None if score_bins is None else torch.from_numpy(score_bins[sets]).to(device),
        )
        if dense is not None:
            states = dense(token_ids, seen_lengths)
        else:
            states = model(token_ids, seen_lengths, int(seen[sets[-1]]), dtype)
        pooled[torch.from_numpy(sets).to(device)] = states
    return pooled


def _distinct(tags: NDArray[np.int64], model: SetEncoder) -> Tensor:
    """Token ids int64 ``[R]``, ascending: the special tokens and those of `tags`."""
    config = model.config
    is_used = np.zeros(config.num_tokens, dtype=np.bool_)
    is_used[: config.num_special] = True
    is_used[tags + config.num_special] = True
    return torch.from_numpy(np.flatnonzero(is_used))


@torch.inference_mode()
def token_states(model: SetEncoder, token_ids: Tensor, lengths: Tensor) -> Tensor:
    """The state of every token, float32 ``[T, d]``, in the order of the input; each set begins with the summary token.

    Args:
        model: in evaluation mode.
        token_ids: int64 ``[T]``.
        lengths: int64 ``[S]``, each at least 1.
    """
    if not len(lengths):
        return torch.empty(0, model.config.settings.width, device=token_ids.device)
    dtype = inference_dtype(token_ids.device)
    backend, heads = pick_backend(token_ids.device, dtype), model.config.settings.num_heads
    order = order_by_length(lengths)
    tokens = token_order(lengths, order)
    layout = SetLayout.build(lengths[order], int(lengths.max()), heads, backend)
    states = torch.empty(len(token_ids), model.config.settings.width, device=token_ids.device)
    states[tokens] = model.states(token_ids[tokens], layout, dtype).float()
    return states


def _chunks(ascending: NDArray[np.int64], batch_tokens: int) -> Iterator[slice]:
    """Slices of sets of at most `batch_tokens` tokens each; lengths in tokens are `ascending`."""
    ends = np.cumsum(ascending)
    start = 0
    while start < len(ascending):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + batch_tokens, side="right")))
        yield slice(start, stop)
        start = stop
