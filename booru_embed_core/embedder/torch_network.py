"""The network by torch, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from booru_embed_core.embedder.network import TagSets
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.model.inference import encode_sets, token_states
from booru_embed_core.model.objective import read_tokens
from booru_embed_core.training.checkpoint import load_model, model_of
from booru_embed_core.training.checkpoint_config import CheckpointConfig
from booru_embed_core.training.hardware import pick_device, pick_dtype

_FP16_ENGINES: Final = ("x86", "fbgemm", "onednn")
"""torch's quantization engines that multiply by weights of half precision."""


class TorchNetwork:
    """A `Network` of a `SetEncoder` in evaluation mode, whose trunk computes in `dtype` (None: the device's default).

    Any number of threads may call it at once: it only reads the weights, and inference mode is thread-local. The
    weights must not change after the first call of `tag_scores`, which caches a copy of some.

    If the trunk computes in bf16 on a CPU, the tags' vectors are rounded to half precision, whose error is smaller.
    """

    def __init__(self, model: SetEncoder, dtype: torch.dtype | None = None) -> None:
        self.model = model
        self._dtype = dtype

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the weights themselves: a copy needs no file, and torch shares no memory between processes."""
        weights = {name: tensor.cpu().numpy() for name, tensor in self.model.state_dict().items()}
        return _restored, (self.model.config, weights, self.model.tag_bias.device.type, self._dtype)

    @cached_property
    def _scores(self) -> Callable[[Tensor], Tensor]:
        """A function from states ``[n, d]`` to the logits of all tags ``[n, num_tags]``, in float32.

        It caches the tags' vectors: computing them for one caption would take longer than everything else. With 30,000
        tags the product reads 61 MB. In packed half precision it takes .9 ms on one core for one caption and 1.7 ms
        for four; in float32 it takes 2.5 ms and 8 ms.
        """
        vectors, bias = self.model.tag_vectors(), self.model.tag_bias.detach()
        is_rounded = self._dtype == torch.bfloat16 and bias.device.type == "cpu"
        if is_rounded and torch.backends.quantized.engine in _FP16_ENGINES:
            from torch.ao.nn.quantized.dynamic import Linear

            linear: Any = Linear(vectors.shape[1], len(vectors), dtype=torch.float16)  # type: ignore[no-untyped-call]
            linear.set_weight_bias(vectors, bias)
            return linear  # type: ignore[no-any-return]
        columns = vectors.T.contiguous()  # in this layout a product with few states takes a third of the time
        return lambda states: torch.addmm(bias, states, columns)

    @classmethod
    def load(cls, checkpoint_dir: Path, config: CheckpointConfig, device: str, precision: str) -> Self:
        """The network of a checkpoint; `device` and `precision` as in `BooruEmbedder.load`.

        Raises:
            CheckpointError: the weights are missing, damaged, or of another vocabulary.
            ValueError: no such device.
        """
        on = pick_device(device)
        return cls(load_model(checkpoint_dir, config, on), pick_dtype(precision, on))

    @torch.inference_mode()
    def embeddings(self, sets: TagSets) -> NDArray[np.float32]:
        """The bottleneck of each set, float32 ``[n, E]``."""
        return self.model.embed(self._pooled(sets)).float().cpu().numpy()

    @torch.inference_mode()
    def tag_scores(self, sets: TagSets) -> NDArray[np.float32]:
        """The completion head's logit of every tag, float32 ``[n, num_tags]``."""
        return self._scores(self.model.complete(self._pooled(sets))).float().cpu().numpy()

    @torch.inference_mode()
    def token_states(self, sets: TagSets) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The state of every token, float32 ``[tokens, d]``, and cu_seqlens int32 ``[n + 1]``."""
        device = self.model.tag_bias.device
        token_ids, lengths = read_tokens(
            torch.from_numpy(sets.tags).to(device),
            torch.from_numpy(np.repeat(np.arange(len(sets.lengths)), sets.lengths)).to(device),
            len(sets.lengths),
            self.model.config.num_special,
            torch.from_numpy(sets.ratings).to(device),
            torch.from_numpy(sets.score_bins).to(device),
        )
        states = token_states(self.model, token_ids, lengths, sets.weights).cpu().numpy()
        return states, np.concatenate([[0], np.cumsum(lengths.cpu().numpy())]).astype(np.int32)

    def _pooled(self, sets: TagSets) -> Tensor:
        return encode_sets(
            self.model,
            sets.tags,
            sets.lengths,
            sets.ratings,
            sets.score_bins,
            dtype=self._dtype,
            weights=sets.weights,
        )


def _restored(
    config: EncoderConfig, weights: dict[str, NDArray[np.float32]], device: str, dtype: torch.dtype | None
) -> TorchNetwork:
    """The network of pickled weights.

    Raises:
        ValueError: it was on a GPU, and there is none here.
    """
    on = pick_device(device)
    # Copies, for arrays of a pickle may be read-only.
    model = model_of(config, {name: torch.tensor(values) for name, values in weights.items()})
    return TorchNetwork(model.to(on), dtype)
