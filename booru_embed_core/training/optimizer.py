"""The optimizer: Muon for the network's matrices, AdamW for all else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) moves a matrix along its momentum made orthogonal,
so that all of its directions learn, not only the few largest. It is for maps between hidden states. Tag vectors,
scales, biases and maps of a few rows stay with AdamW, whose step is per number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from booru_embed_core.settings import TrainingSettings

_BETAS: Final = (0.9, 0.98)
MIN_MATRIX_SIDE: Final = 8
_TABLES: Final = ("tokens", "categories")


class Optimizer:
    """torch's optimizers of a model's parameters, stepped together at one learning rate."""

    def __init__(self, model: nn.Module, settings: TrainingSettings) -> None:
        # Only matrices decay: the vectors of rare tags would shrink, since they seldom get a gradient.
        named = list(model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and not name.startswith(_TABLES)]
        others = [p for name, p in named if p.ndim != 2 or name.startswith(_TABLES)]
        decay, rate = settings.weight_decay, settings.learning_rate
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if settings.optimizer == "muon":
            small = [matrix for matrix in matrices if min(matrix.shape) < MIN_MATRIX_SIDE]
            matrices = [matrix for matrix in matrices if min(matrix.shape) >= MIN_MATRIX_SIDE]
            # Steps have the size of AdamW's, so one rate and one decay serve both (Liu et al. 2025, §2.2).
            self._parts["muon"] = torch.optim.Muon(
                matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            )
            matrices = small
        groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        is_fused = not others[0].is_meta  # `plan` measures a step on the meta device
        self._parts["adamw"] = torch.optim.AdamW(groups, lr=rate, betas=_BETAS, fused=is_fused)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All learned parameters."""
        return [p for part in self._parts.values() for group in part.param_groups for p in group["params"]]

    def step(self, rate: float) -> None:
        """Moves the parameters by their gradients, at the learning rate `rate`."""
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def zero_grad(self) -> None:
        """Frees the gradients."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The state of each of torch's optimizers, by name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Loads what `state_dict` returned."""
        for name, part in self._parts.items():
            part.load_state_dict(states[name])
