"""Stages after training whose work ranks share: what they are told, and what each rank does.

``worker`` starts them as it starts a training: alone, by torchrun on one machine, or by torchrun on several. Standard
library and settings only at module level: assets import the jobs from here, and torch would slow them down.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from booru_embed_core.settings import EvaluationSettings
from booru_embed_dagster.training.reporting import run_reporting

if TYPE_CHECKING:
    from booru_embed_core.training.distributed import Ranks
    from booru_embed_dagster.training.stopping import ShutdownWatchdog

_ELSEWHERE: Final = "set [warehouse] path to a folder on another disk"
_LESS_MEMORY: Final = {
    "evaluation": "lower [processes] evaluation, or [evaluation] max_fitted_tags: baselines take its square",
    "post_embeddings": "lower [processes] post_embeddings: each process holds the model and its part of the work",
}


class StageJob(BaseModel):
    """The inputs and folders of a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["evaluation", "post_embeddings"]
    checkpoint_dir: Path
    packed_path: Path
    work_dir: Path
    """Keeps finished parts. All ranks see it."""
    out_dir: Path
    """An existing, empty folder; the first rank writes into it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_processes: int = Field(default=1, ge=1)
    """Ranks that the stage starts by itself, on one machine."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """What `evaluation` measures; other stages do not read it."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.stage

    def compute(self, ranks: Ranks, log: Callable[[str], object]) -> None:
        """Does what this rank takes of the work, and on the first rank the rest."""
        made_of = (self.checkpoint_dir, self.packed_path)
        if self.stage == "evaluation":
            from booru_embed_core.evaluation.checkpoint_evaluation import evaluate_checkpoint

            evaluate_checkpoint(*made_of, self.out_dir, self.work_dir, self.evaluation, self.device, log, ranks)
            return
        from booru_embed_core.search.build import help_to_index, index_posts

        if ranks.is_first:
            index_posts(*made_of, self.out_dir, self.work_dir, self.device, log=log, ranks=ranks)
        else:
            help_to_index(*made_of, self.work_dir, ranks, self.device, log=log)


def run_stage(
    job: StageJob, log: Callable[[str], object], deliver: Callable[[dict[str, Any]], object], stop: Callable[[], bool]
) -> int:
    """Runs `job`, or one rank of it; returns 0, or 1 after writing the reason.

    The reason is in `FAILURE_FILE`, or in this rank's file of `LOST_FILES` if it lost the others.

    Args:
        job: the stage.
        log: called with progress lines.
        deliver: called once at the end, with nothing: the result is in files.
        stop: asked continuously by a thread, which ends the process: only whole parts count.
    """
    from booru_embed_core.training.distributed import joined_ranks

    def compute(watchdog: ShutdownWatchdog) -> dict[str, Any]:
        watchdog.offer_save(lambda: "stopped; what is finished is kept: start it again and it resumes from there")
        with joined_ranks() as ranks:
            job.compute(ranks, log)
        return {}

    report = run_reporting(
        job,
        compute,
        stop,
        folder=job.work_dir,
        elsewhere=_ELSEWHERE,
        less_memory=_LESS_MEMORY[job.stage],
        grace_seconds=0.0,
    )
    if report is None:
        return 1
    deliver(report)
    return 0
