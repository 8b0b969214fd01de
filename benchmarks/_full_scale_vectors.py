"""Stages of the full-scale benchmark: embeddings of tags and posts, the index, and search."""

from __future__ import annotations

from typing import Final

from benchmarks._full_scale import Stage

STAGES: Final[tuple[Stage, ...]] = ()
