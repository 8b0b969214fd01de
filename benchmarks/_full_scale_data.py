"""Stages of the full-scale benchmark: the data path."""

from __future__ import annotations

from typing import Final

from benchmarks._full_scale import Stage, asset_stage

_ROWS: Final = "dagster/row_count"

STAGES: Final[tuple[Stage, ...]] = (
    asset_stage("posts", _ROWS, before={"cpu_seconds": 49.6, "peak_mb": 920, "disk_bytes": 382e6}),
    asset_stage("tag_frequencies", _ROWS, before={"cpu_seconds": 11.1, "peak_mb": 470, "disk_bytes": 10e6}),
    asset_stage("vocab", _ROWS),
    asset_stage("packed_tokens", before={"cpu_seconds": 35.6, "peak_mb": 1290, "disk_bytes": 560e6}),
)
