"""A training report as one readable line."""

from __future__ import annotations

import dataclasses

import pytest

from booru_embed_core.training.progress import Progress

PROGRESS = Progress(
    step=7,
    num_steps=34,
    epoch=0.4118,
    loss=1.25,
    terms={"bottleneck": 1.0},
    learning_rate=1e-3,
    tokens_per_second=12345.6,
    eta_seconds=65.4,
)


def test_a_line_has_the_step_the_epoch_the_loss_and_the_speed() -> None:
    assert PROGRESS.line() == "step 7/34  epoch 0.41  loss 1.2500  12,346 tokens/s  ETA 1:05"


def test_a_validation_stands_before_the_speed() -> None:
    validated = dataclasses.replace(PROGRESS, validation={"loss": 2.5, "head": 1.0})
    assert "loss 1.2500  validation loss 2.5000  12,346 tokens/s" in validated.line()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (90061, "25:01:01"),
    ],
)
def test_durations_are_rounded_to_seconds_and_carry(seconds: float, shown: str) -> None:
    assert dataclasses.replace(PROGRESS, eta_seconds=seconds).line().endswith(f"ETA {shown}")
