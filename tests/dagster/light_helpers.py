"""What runs may leave out where it is not what a test looks at: the training's own process, drawing, t-SNE.

A process that trains imports torch anew, which takes five times as long as the training of the tests' small network.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from booru_embed_dagster.assets import training
from booru_embed_dagster.jobs import percentile_sweep
from booru_embed_dagster.presentation import plots, tag_map
from booru_embed_dagster.training.launcher import TrainingFailedError, why_it_ended
from booru_embed_dagster.training.worker import Job, run_job

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def train_here(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, job: Job, output: Path
) -> dict[str, float | str]:
    """What `launch_training` does, in this process."""
    delivered: list[dict[str, Any]] = []
    code = run_job(job, context.log.info, delivered.append, lambda: False)
    if code:
        output.touch()
        raise TrainingFailedError(why_it_ended(job.out_dir, output, code))
    return delivered[0]


def lighten(patch: pytest.MonkeyPatch) -> None:
    """Trains in this process and draws nothing, until `patch` is undone."""
    for module in (training, percentile_sweep):
        patch.setattr(module, "launch_training", train_here)
    patch.setattr(plots, "_png", lambda _: PIXEL)
    patch.setattr(tag_map, "_MIN_FOR_TSNE", 10**9)
