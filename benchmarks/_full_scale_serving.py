"""Stages of the full-scale benchmark: export, serve, the page, complete."""

from __future__ import annotations

from typing import Final

from benchmarks._full_scale import Stage

STAGES: Final[tuple[Stage, ...]] = ()
