"""A caption as ComfyUI's CONDITIONING: the states of its tokens, and the pooled vector beside them.

An adapter is a safetensors file of up to two linear maps, as ``torch.nn.Linear`` keeps them: ``states.weight``
[width of the image model's cross-attention, d] and ``pooled.weight`` [length of its pooled vector, E], each with an
optional ``bias``. Without one, the numbers are passed on as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from booru_embed_core import BooruEmbedder
from booru_embed_core.errors import first_line

Numbers = NDArray[np.float32]
_NAMES = frozenset({"states.weight", "states.bias", "pooled.weight", "pooled.bias"})


def read_adapter(path: str) -> dict[str, Numbers]:
    """The weights in the file `path`, float32; none for an empty path.

    Raises:
        ValueError: it is no such file, or holds other weights.
    """
    if not path.strip():
        return {}
    file = Path(path.strip()).expanduser()
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"adapter {file}: {first_line(error)}; give a safetensors file, or leave it empty") from None
    if not weights or not _NAMES.issuperset(weights):
        raise ValueError(f"adapter {file}: holds {', '.join(sorted(weights)) or 'nothing'}, not {sorted(_NAMES)}")
    return {name: value.astype(np.float32) for name, value in weights.items()}


def conditioning(
    embedder: BooruEmbedder, caption: str, rating: str | None, score: int | None, adapter: Mapping[str, Numbers]
) -> list[list[Any]]:
    """One entry: states, torch float32 ``[1, tokens, width]``, and ``pooled_output``, float32 ``[1, length]``.

    The pooled vector is scaled to numbers of about 1, as the guide on conditioning does.

    Raises:
        ValueError: the adapter is of another size, or as in `BooruEmbedder.embed`.
    """
    import torch  # ComfyUI has it; the other nodes do without

    states, _ = embedder.hidden_states([caption], rating, score)
    pooled = embedder.embed([caption], rating, score) * np.float32(embedder.embedding_dim**0.5)
    states, pooled = _mapped(states, adapter, "states"), _mapped(pooled, adapter, "pooled")
    return [[torch.from_numpy(states)[None], {"pooled_output": torch.from_numpy(pooled)}]]


def _mapped(rows: Numbers, adapter: Mapping[str, Numbers], name: str) -> Numbers:
    """`rows` ``[n, m]`` by the linear map `name`, float32 ``[n, k]``; as they are without one."""
    weight, bias = adapter.get(f"{name}.weight"), adapter.get(f"{name}.bias")
    if weight is None and bias is None:
        return rows
    if weight is None or weight.shape[1:] != rows.shape[1:] or (bias is not None and bias.shape != weight.shape[:1]):
        sizes = {one: list(adapter[one].shape) for one in sorted(adapter) if one.startswith(name)}
        raise ValueError(f"adapter: {sizes} does not map the {rows.shape[1]} numbers of {name}; use one of this model")
    return rows @ weight.T + (np.float32(0) if bias is None else bias)
