"""Stages of the full-scale benchmark: a training step."""

from __future__ import annotations

from typing import Final

from benchmarks._full_scale import Stage

STAGES: Final[tuple[Stage, ...]] = ()
