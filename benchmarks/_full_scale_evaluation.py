"""Stages of the full-scale benchmark: evaluation and the checks."""

from __future__ import annotations

from typing import Final

from benchmarks._full_scale import Stage, asset_stage

STAGES: Final[tuple[Stage, ...]] = (asset_stage("evaluation", limits={"cpu_seconds": 1_800, "peak_mb": 2_500}),)
