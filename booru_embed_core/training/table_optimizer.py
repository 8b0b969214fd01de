"""AdamW for a large table of which each step has gradients for a few rows.

It ends where dense AdamW ends, whose momentum still moves a row while its gradient is 0. A row makes up for the steps
that it missed before it is used: with m and v its moments after step n, the next k steps move it by

    -m/√v (r(n+1) ρ + … + r(n+k) ρᵏ),   ρ = β1/√β2,

where r is the learning rate with AdamW's corrections of moments that began at 0. Rates follow a known schedule, so one
array holds these sums: with F(n) = r(n+1) ρ + r(n+2) ρ² + …  to the end, the sum is F(n) - ρᵏ F(n+k).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

_EPSILON: Final = 1e-8
_ROWS_AT_ONCE: Final = 1 << 14


class TableOptimizer:
    """Updates a table ``[R, …]`` by rows, without weight decay.

    Args:
        table: float32, changed in place.
        rates: the learning rate of every step of the training.
        betas: AdamW's.
    """

    def __init__(self, table: Tensor, rates: Sequence[float], betas: tuple[float, float]) -> None:
        self.table = table
        self._betas = betas
        self._first, self._second = torch.zeros_like(table), torch.zeros_like(table)
        self._num_steps = torch.zeros(len(table), *[1] * (table.ndim - 1), dtype=torch.int32, device=table.device)
        """The number of steps that each row is up to date with."""
        self._ratio = betas[0] / math.sqrt(betas[1])
        self.set_rates(rates)

    def set_rates(self, rates: Sequence[float]) -> None:
        """Sets the learning rate of every step; every row must be up to date with the steps done."""
        beta1, beta2 = self._betas
        steps = np.arange(1, len(rates) + 1)
        self._rates = np.asarray(rates) * np.sqrt(1 - beta2**steps) / (1 - beta1**steps)
        sums = np.zeros(len(rates) + 1)
        for step in range(len(rates) - 1, -1, -1):
            sums[step] = self._ratio * (self._rates[step] + sums[step + 1])
        self._sums = torch.from_numpy(sums).to(self.table)

    def restart(self, rates: Sequence[float]) -> None:
        """Forgets all steps; those to come have learning rates `rates`."""
        for state in self.state_dict().values():
            state.zero_()
        self.set_rates(rates)

    @torch.no_grad()
    def catch_up(self, rows: Tensor, num_steps: int) -> None:
        """Makes up for the steps that `rows`, which are distinct, missed when `num_steps` are done."""
        beta1, beta2 = self._betas
        done = self._num_steps[rows]
        missed = (num_steps - done).float()
        drift = self._sums[done] - self._ratio**missed * self._sums[num_steps]
        first, second = self._first[rows], self._second[rows]
        self.table[rows] -= drift * first / (second.sqrt() + _EPSILON)
        self._first[rows] = first * beta1**missed
        self._second[rows] = second * beta2**missed
        self._num_steps[rows] = num_steps

    def catch_up_all(self, num_steps: int) -> None:
        """Makes up for all missed steps of all rows when `num_steps` are done."""
        for rows in torch.split(torch.arange(len(self.table), device=self.table.device), _ROWS_AT_ONCE):
            self.catch_up(rows, num_steps)

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, num_steps: int) -> None:
        """Takes a step with `rows`, which are distinct and caught up; `num_steps` were done before."""
        beta1, beta2 = self._betas
        first = self._first[rows].lerp_(gradient, 1 - beta1)
        second = self._second[rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self.table[rows] -= float(self._rates[num_steps]) * first / (second.sqrt() + _EPSILON)
        self._first[rows], self._second[rows] = first, second
        self._num_steps[rows] = num_steps + 1

    def state_dict(self) -> dict[str, Tensor]:
        """The moments, and how many steps each row is up to date with."""
        return {"first": self._first, "second": self._second, "num_steps": self._num_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads what `state_dict` returned."""
        for name, mine in self.state_dict().items():
            mine.copy_(state[name])
