"""The packed file in device memory: batches are gathered there and never cross the bus.

A corpus of 10 million posts takes about 0.9 GB. Batches equal those of `read_batch` bit for bit. `EpochBatches` on the
host decides which records they have.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from booru_embed_core.tokens.batches import Batch
from booru_embed_core.tokens.packed_file import PackedFile

MAX_SHARE_OF_FREE_MEMORY: Final = 0.25
"""Maximum share of a GPU's free memory; the rest is for the model, its optimizer and activations."""


class DeviceCorpus:
    """The records of a packed file on a device.

    Args:
        packed: the file. The host still reads its offsets, so that batch sizes are known without a device sync.
        device: any torch device.
    """

    def __init__(self, packed: PackedFile, device: torch.device) -> None:
        self.packed = packed
        self.device = device
        # Unsigned arrays are stored as signed ones of the same width: torch supports few operations on unsigned types.
        self._tokens = _on(device, packed.tokens)
        self._offsets = _on(device, packed.offsets)
        self._field_lengths = _on(device, packed.field_lengths)
        self._ratings = torch.from_numpy(packed.rating.copy()).to(device)
        self._scores = torch.from_numpy(packed.score.copy()).to(device)

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """The records `rows` (int64 ``[N]``) of the packed file, in that order, on the device.

        Raises:
            IndexError: the file has no such row.
        """
        if rows.min(initial=0) < 0:
            raise IndexError(f"row {rows.min()}: rows are counted from 0")
        lengths = (self.packed.offsets.take(rows + 1) - self.packed.offsets.take(rows)).astype(np.int64)
        num_tokens = int(lengths.sum())
        index = torch.from_numpy(rows).to(self.device, non_blocking=True)
        starts = self._offsets[index]
        ends = (self._offsets[index + 1] - starts).cumsum(0)
        cu_seqlens = torch.cat([ends.new_zeros(1), ends])
        shifts = torch.repeat_interleave(starts - cu_seqlens[:-1], cu_seqlens.diff(), output_size=num_tokens)
        indices = shifts + torch.arange(num_tokens, device=self.device)
        return Batch(
            tokens=_unsigned(self._tokens[indices], torch.int32),
            cu_seqlens=cu_seqlens.to(torch.int32),
            field_lengths=_unsigned(self._field_lengths[index], torch.int64),
            post_index=index,
            ratings=self._ratings[index].to(torch.int64),
            scores=self._scores[index].to(torch.int64),
            max_length=int(lengths.max(initial=0)),
        )


def device_bytes(packed: PackedFile) -> int:
    """Bytes that the corpus takes on a device."""
    arrays = (packed.tokens, packed.offsets, packed.field_lengths, packed.rating, packed.score)
    return sum(array.nbytes for array in arrays)


def fits_on(packed: PackedFile, device: torch.device) -> bool:
    """Whether `device` is a GPU and the corpus takes at most a quarter of its free memory."""
    if device.type != "cuda":
        return False
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return device_bytes(packed) <= MAX_SHARE_OF_FREE_MEMORY * free_bytes


def _on(device: torch.device, array: NDArray[np.unsignedinteger]) -> Tensor:
    signed = array.view(np.dtype(f"i{array.itemsize}"))
    return torch.from_numpy(signed.copy()).to(device)  # a copy, since torch warns about read-only memory


def _unsigned(values: Tensor, dtype: torch.dtype) -> Tensor:
    """int16 or int32 `values`, reinterpreted as unsigned, in a wider `dtype`; 32-bit ids never reach the sign bit."""
    return values.to(dtype) & 0xFFFF if values.dtype == torch.int16 else values.to(dtype)
