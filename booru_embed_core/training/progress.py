"""Reports of a running training, as numbers and as a line for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A report of a training step; log records have the same content."""

    step: int
    num_steps: int
    epoch: float
    loss: float
    terms: dict[str, float]
    learning_rate: float
    tokens_per_second: float
    eta_seconds: float
    validation: dict[str, float] | None = None

    def line(self) -> str:
        """One line for people."""
        position = f"step {self.step}/{self.num_steps}  epoch {self.epoch:.2f}  loss {self.loss:.4f}"
        speed = f"{self.tokens_per_second:,.0f} tokens/s  ETA {_duration(self.eta_seconds)}"
        if self.validation is None:
            return f"{position}  {speed}"
        return f"{position}  validation loss {self.validation['loss']:.4f}  {speed}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
