"""Stages of the full-scale benchmark: evaluation and the checks."""

from __future__ import annotations

from typing import Final

from benchmarks._full_scale import Stage

STAGES: Final[tuple[Stage, ...]] = ()
