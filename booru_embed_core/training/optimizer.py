"""The optimizer: Muon for the network's matrices, AdamW for everything else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) updates a matrix by its orthogonalised momentum, so
that all directions learn, not only the few largest. It suits maps between hidden states. Tag vectors, scales, biases
and maps of a few rows stay with AdamW, which scales its step per parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
from torch import nn

from booru_embed_core.settings import TrainingSettings

BETAS: Final = (0.9, 0.98)
MIN_MATRIX_SIDE: Final = 8
_TABLES: Final = ("tokens", "categories")


class Optimizer:
    """A model's torch optimizers, stepped together at one learning rate.

    Args:
        model: whose parameters they update.
        settings: name the optimizer and the weight decay.
        left_out: names of parameters that something else updates.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings, left_out: Collection[str] = ()) -> None:
        # Only matrices decay: vectors of rare tags seldom get a gradient and would shrink.
        named = [(name, p) for name, p in model.named_parameters() if name not in left_out]
        matrices = [p for name, p in named if p.ndim == 2 and not name.startswith(_TABLES)]
        others = [p for name, p in named if p.ndim != 2 or name.startswith(_TABLES)]
        decay, rate = settings.weight_decay, settings.learning_rate
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        if settings.optimizer == "muon":
            small = [matrix for matrix in matrices if min(matrix.shape) < MIN_MATRIX_SIDE]
            matrices = [matrix for matrix in matrices if min(matrix.shape) >= MIN_MATRIX_SIDE]
            # Updates are scaled to AdamW's size, so one rate and one decay serve both (Liu et al. 2025, §2.2).
            self._optimizers["muon"] = torch.optim.Muon(
                matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            )
            matrices = small
        groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        is_fused = not others[0].is_meta  # `plan` measures a step on the meta device
        self._optimizers["adamw"] = torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=is_fused)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All learned parameters."""
        return [
            p for optimizer in self._optimizers.values() for group in optimizer.param_groups for p in group["params"]
        ]

    def step(self, rate: float) -> None:
        """Updates the parameters from their gradients, at learning rate `rate`."""
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()

    def restart(self) -> None:
        """Forgets all steps."""
        for optimizer in self._optimizers.values():
            optimizer.state.clear()

    def zero_grad(self) -> None:
        """Frees the gradients."""
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The state of each torch optimizer, by name."""
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Loads what `state_dict` returned."""
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(states[name])
