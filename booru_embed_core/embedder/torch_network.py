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
from booru_embed_core.embedder.packed_scores import PackedScores
from booru_embed_core.model.dense import trunk_in
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.model.inference import encode_sets, token_states
from booru_embed_core.model.objective import read_tokens
from booru_embed_core.training.checkpoint import load_mapped, load_model, model_of
from booru_embed_core.training.checkpoint_config import CheckpointConfig
from booru_embed_core.training.hardware import pick_device, pick_dtype
from booru_embed_core.training.mapped_weights import MappedWeights

_FP16_ENGINES: Final = ("x86", "fbgemm", "onednn")
"""torch's quantization engines that multiply by weights of half precision."""
_MANY_TAGS: Final = 1024
"""Tags after which the pages of their vectors are given back: the system maps 64 kB around each."""


class TorchNetwork:
    """A `Network` of a `SetEncoder` in evaluation mode, whose trunk computes in `dtype` (None: the device's default).

    Any number of threads may call it at once: it only reads the weights, and inference mode is thread-local. The
    weights must not change after the first call, which caches copies of some.

    If the trunk computes in bf16 on a CPU, the tags' vectors are rounded to half precision, whose error is smaller.
    """

    def __init__(
        self, model: SetEncoder, dtype: torch.dtype | None = None, mapped: MappedWeights | None = None
    ) -> None:
        """Use `load` for a checkpoint; `mapped` is the file that the weights of `model` are views of, if they are."""
        self.model = model
        self._dtype = dtype
        self._mapped = mapped
        self._num_read = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the weights themselves: a copy needs no file, and torch shares no memory between processes."""
        weights = {name: tensor.cpu().numpy() for name, tensor in self.model.state_dict().items()}
        return _restored, (self.model.config, weights, self.model.tag_bias.device.type, self._dtype)

    @cached_property
    def _trunk(self) -> SetEncoder:
        """The model that computes pooled states."""
        if self._dtype == torch.bfloat16 and self.model.tag_bias.device.type == "cpu":
            return trunk_in(self.model, self._dtype)
        return self.model

    @cached_property
    def _scores(self) -> Callable[[Tensor], Tensor]:
        """A function from states ``[n, d]`` to the logits of all tags ``[n, num_tags]``, in float32.

        It caches the tags' vectors: computing them for one caption would take longer than everything else. With 30,000
        tags the product reads 61 MB. In packed half precision it takes .9 ms on one core for one caption and 1.7 ms
        for four; in float32 it takes 2.5 ms and 8 ms.
        """
        bias = self.model.tag_bias.detach()
        is_rounded = self._dtype == torch.bfloat16 and bias.device.type == "cpu"
        if is_rounded and torch.backends.quantized.engine in _FP16_ENGINES:
            return PackedScores(self.model, self._give_back)
        columns = self.model.tag_vectors().T.contiguous()  # with few states a third of the time of rows
        return lambda states: torch.addmm(bias, states, columns)

    def _give_back(self) -> None:
        if self._mapped is not None:
            self._mapped.give_back()

    @classmethod
    def load(cls, checkpoint_dir: Path, config: CheckpointConfig, device: str, precision: str) -> Self:
        """The network of a checkpoint; `device` and `precision` as in `BooruEmbedder.load`.

        Raises:
            CheckpointError: the weights are missing, damaged, or of another vocabulary.
            ValueError: no such device.
        """
        on = pick_device(device)
        if on.type == "cpu":
            model, mapped = load_mapped(checkpoint_dir, config)
            return cls(model, pick_dtype(precision, on), mapped)
        return cls(load_model(checkpoint_dir, config, on), pick_dtype(precision, on))

    @torch.inference_mode()
    def embeddings(self, sets: TagSets) -> NDArray[np.float32]:
        """The bottleneck of each set, float32 ``[n, E]``."""
        found: NDArray[np.float32] = self.model.embed(self._pooled(sets)).float().cpu().numpy()
        return found

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
        pooled = encode_sets(
            self._trunk,
            sets.tags,
            sets.lengths,
            sets.ratings,
            sets.score_bins,
            dtype=self._dtype,
            weights=sets.weights,
        )
        self._num_read += len(sets.tags)  # of several threads at once it may miss some
        if self._num_read > _MANY_TAGS:
            self._num_read = 0
            self._give_back()
        return pooled


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
