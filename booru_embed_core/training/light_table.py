"""The tags' vectors of a light checkpoint as a torch module: rows become float32 when they are looked up."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

_ROWS: Final = 8192
"""Rows that are converted at once: 8 MB at width 256."""


class LightTable(nn.Module):
    """Stands for the `nn.Embedding` of a `SetEncoder` that only computes: in half precision, or int8 with scales."""

    def __init__(self, levels: Tensor, scales: Tensor | None) -> None:
        """`levels`: float16 or int8 ``[R, d]``; `scales`: float32 ``[R]`` for int8. Both are used as they are."""
        super().__init__()
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.levels: Tensor
        self.scales: Tensor | None

    def forward(self, rows: Tensor) -> Tensor:
        """The vectors of `rows` (int64 ``[n]``), float32 ``[n, d]``."""
        vectors = self.levels[rows].float()
        return vectors if self.scales is None else vectors.mul_(self.scales[rows][:, None])

    @property
    def weight(self) -> Tensor:
        """All vectors, float32 ``[R, d]``: new memory for each call."""
        found = torch.empty(self.levels.shape, device=self.levels.device)
        for start in range(0, len(found), _ROWS):
            part = slice(start, start + _ROWS)
            torch.mul(self.levels[part], 1 if self.scales is None else self.scales[part, None], out=found[part])
        return found

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Saves what a table in float32 would: a copy of the network may be one."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight
