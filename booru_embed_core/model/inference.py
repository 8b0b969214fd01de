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
from booru_embed_core.model.encoder import SUMMARY_ID, SetEncoder, token_order
from booru_embed_core.model.objective import FIRST_RATING_ID, FIRST_SCORE_ID, read_tokens

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
    weights: NDArray[np.float32] | None = None,
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
        weights: float32 ``[T]``, above 0: a tag of weight w counts as w copies of itself. None if all are 1.
    """
    device = model.tag_bias.device
    on_cpu = device.type == "cpu"
    dtype = dtype or inference_dtype(device)
    batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if on_cpu else BATCH_TOKENS)
    dense = DenseEncoder(model, _distinct(model, tags, ratings, score_bins), dtype) if on_cpu else None
    pooled = torch.empty(len(lengths), model.config.settings.width, dtype=torch.float32, device=device)
    starts = np.cumsum(lengths) - lengths
    seen = lengths + 1 + sum((given >= 0).astype(np.int64) for given in (ratings, score_bins) if given is not None)
    is_weighted = _is_weighted(lengths, weights)
    order = np.lexsort((seen, is_weighted))
    for chunk in _chunks(seen[order], batch_tokens, len(order) - int(is_weighted.sum())):
        sets = order[chunk]
        positions = np.repeat(starts[sets] - (np.cumsum(lengths[sets]) - lengths[sets]), lengths[sets])
        positions += np.arange(len(positions))
        owners = np.repeat(np.arange(len(sets)), lengths[sets])
        of_tags = weights[positions] if weights is not None and is_weighted[sets[0]] else None
        sorted_tags, of_tags = _sorted_tags(tags[positions], owners, of_tags)
        token_ids, seen_lengths = read_tokens(
            torch.from_numpy(sorted_tags).to(device),
            torch.from_numpy(owners).to(device),
            len(sets),
            model.config.num_special,
            None if ratings is None else torch.from_numpy(ratings[sets]).to(device),
            None if score_bins is None else torch.from_numpy(score_bins[sets]).to(device),
        )
        token_weights = _token_weights(model, token_ids, of_tags)
        if dense is not None:
            states = dense(token_ids, seen_lengths, token_weights)
        else:
            states = model(token_ids, seen_lengths, int(seen[sets[-1]]), dtype, token_weights)
        pooled[torch.from_numpy(sets).to(device)] = states
    return pooled


def _distinct(
    model: SetEncoder, tags: NDArray[np.int64], ratings: NDArray[np.int64] | None, score_bins: NDArray[np.int64] | None
) -> Tensor:
    """Token ids int64 ``[R]``, ascending: the summary token, those of the metadata that is given, and of `tags`."""
    config = model.config
    is_used = np.zeros(config.num_tokens, dtype=np.bool_)
    is_used[SUMMARY_ID] = True
    for given, first in ((ratings, FIRST_RATING_ID), (score_bins, FIRST_SCORE_ID)):
        if given is not None:
            is_used[given[given >= 0] + first] = True
    is_used[tags + config.num_special] = True
    return torch.from_numpy(np.flatnonzero(is_used))


@torch.inference_mode()
def token_states(
    model: SetEncoder, token_ids: Tensor, lengths: Tensor, weights: NDArray[np.float32] | None = None
) -> Tensor:
    """The state of every token, float32 ``[T, d]``, in the order of the input; each set begins with the summary token.

    Args:
        model: in evaluation mode.
        token_ids: int64 ``[T]``.
        lengths: int64 ``[S]``, each at least 1.
        weights: float32, above 0, one for each tag among the tokens, in their order. None if all are 1.
    """
    states = torch.empty(len(token_ids), model.config.settings.width, device=token_ids.device)
    dtype, heads = inference_dtype(token_ids.device), model.config.settings.num_heads
    given = _token_weights(model, token_ids, weights)
    is_weighted = torch.zeros(len(lengths), dtype=torch.bool, device=token_ids.device)
    if given is not None:
        is_weighted[torch.repeat_interleave(lengths)[given != 1]] = True
    for weighted, sets in ((False, (~is_weighted).nonzero()[:, 0]), (True, is_weighted.nonzero()[:, 0])):
        if not len(sets):
            continue
        order = sets[order_by_length(lengths[sets])]
        tokens = token_order(lengths, order)
        own = given[tokens] if given is not None and weighted else None
        backend = pick_backend(token_ids.device, dtype, weighted)
        layout = SetLayout.build(lengths[order], int(lengths[order].max()), heads, backend, weights=own)
        states[tokens] = model.states(token_ids[tokens], layout, dtype).float()
    return states


def _is_weighted(lengths: NDArray[np.int64], weights: NDArray[np.float32] | None) -> NDArray[np.bool_]:
    """Which sets have a weight other than 1, bool ``[S]``."""
    is_weighted = np.zeros(len(lengths), dtype=np.bool_)
    if weights is not None:
        is_weighted[np.repeat(np.arange(len(lengths)), lengths)[weights != 1]] = True
    return is_weighted


def _sorted_tags(
    tags: NDArray[np.int64], owners: NDArray[np.int64], weights: NDArray[np.float32] | None
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """The tags of each set in ascending order, and their weights: results depend on no order, even in bf16.

    Args:
        tags: int64 ``[T]``, set after set.
        owners: int64 ``[T]``, the set of each tag, ascending.
        weights: float32 ``[T]``, or None.
    """
    num_tags = int(tags.max(initial=0)) + 1
    numbered = owners * num_tags + tags
    if weights is None:
        numbered.sort()
        return numbered % num_tags, None
    by_tag = np.argsort(numbered)
    return numbered[by_tag] % num_tags, weights[by_tag]


def _token_weights(model: SetEncoder, token_ids: Tensor, weights: NDArray[np.float32] | None) -> Tensor | None:
    """The weight of each token, float32 ``[T]``: 1 for special tokens; None where `weights` is."""
    if weights is None:
        return None
    of_tags = torch.from_numpy(weights).to(token_ids.device)
    ones = torch.ones(len(token_ids), dtype=torch.float32, device=token_ids.device)
    return ones.masked_scatter(token_ids >= model.config.num_special, of_tags)


def _chunks(lengths: NDArray[np.int64], batch_tokens: int, boundary: int) -> Iterator[slice]:
    """Slices of sets of at most `batch_tokens` tokens each, none of which spans the set `boundary`."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + batch_tokens, side="right")))
        if start < boundary:
            stop = min(stop, boundary)
        yield slice(start, stop)
        start = stop
