"""The job `sweep`: tries several percentiles to show which one to choose.

Its op logs a materialization of `percentile_sweep`, which is not an asset of the graph: `make run` (``key:"*"``) and
the automation select every asset, and six trainings should only run on request. The asset still has a page in the UI.

No ``from __future__ import annotations``: Dagster reads annotations.
"""

from pathlib import Path
from typing import Final

import dagster as dg
import pyarrow.parquet as pq
from pydantic import Field

from booru_embed_core.filesystem import folder_bytes
from booru_embed_core.settings import Settings, TrainingSettings
from booru_embed_dagster.presentation import plots
from booru_embed_dagster.presentation.metadata import picture, table_metadata
from booru_embed_dagster.resources import GPU_POOL, Pipeline, one_line_errors
from booru_embed_dagster.training.launcher import launch_training
from booru_embed_dagster.training.worker import Job
from booru_embed_dagster.warehouse.warehouse import lock_folder

PERCENTILE_SWEEP: Final = "percentile_sweep"
SWEEP_FILE: Final = "percentile_sweep.parquet"
_SECTIONS: Final = ("vocab", "tokens", "model", "training", "evaluation")


class SweepConfig(dg.Config):
    """What to try; everything else comes from settings.toml."""

    percentiles: list[float] = Field(
        default=[80.0, 90.0, 95.0, 99.0, 99.5, 99.9],
        description="Values for `[vocab] keep_percentile`; a category with its own percentile keeps it.",
    )
    num_epochs: int = Field(default=2, ge=1, description="Epochs of each training.")
    seed: int = Field(default=7, ge=0, description="Seed of each training.")


@dg.op(pool=GPU_POOL)
@one_line_errors
def try_percentiles(context: dg.OpExecutionContext, config: SweepConfig, pipeline: Pipeline) -> None:
    """For each percentile: builds a vocabulary, packs posts, trains briefly, and measures recall on validation posts.

    An interrupted sweep resumes when it is launched again with the same config.
    """
    from booru_embed_core.evaluation.sweep import cheapest_good, sweep_percentiles

    check(config)
    settings = short(pipeline.settings, config)

    def train(packed_path: Path, vocab_dir: Path, work_dir: Path, out_dir: Path) -> float:
        job = Job(
            packed_path=packed_path,
            vocab_dir=vocab_dir,
            work_dir=work_dir,
            out_dir=out_dir,
            model=settings.model,
            training=settings.training,
        )
        return float(launch_training(context, job, draft.scratch / "output.log")["seconds"])

    inputs = pipeline.current("posts", "tag_frequencies")
    tried = {"num_epochs": str(config.num_epochs), "seed": str(config.seed)}
    with pipeline.new_version(PERCENTILE_SWEEP, inputs, _SECTIONS, tried, defined_by=[SWEEP_FILE]) as draft:
        work = pipeline.warehouse.work_folder(PERCENTILE_SWEEP, draft.inputs_key)
        with lock_folder(work):
            posts, frequencies = (product.path for product in inputs)
            table = sweep_percentiles(posts, frequencies, work, settings, config.percentiles, train, context.log.info)
        pq.write_table(table, draft.path / SWEEP_FILE, compression="zstd")
        chosen = cheapest_good(table)
        plot = picture(plots.percentile_sweep(table, chosen), draft.path / "percentile_sweep.png")
    pipeline.warehouse.clear_work(PERCENTILE_SWEEP)
    context.log_event(
        dg.AssetMaterialization(
            PERCENTILE_SWEEP,
            description="Cost and recall of each percentile. Built by the job `sweep`, never by `make run`.",
            metadata={
                "path": dg.MetadataValue.path(draft.product.path),
                "size_bytes": folder_bytes(draft.product.path),
                "cheapest_good_percentile": chosen,
                **table_metadata(table),
                "plot": plot,
            },
        )
    )


@dg.job(description="Tries several percentiles with a short training each. The result is `percentile_sweep`.")
def sweep() -> None:
    """One op: percentiles are tried in turn, so that only one is in memory."""
    try_percentiles()


def check(config: SweepConfig) -> None:
    """Checks the percentiles of `config`.

    Raises:
        ValueError: there are none, or one lies outside (0, 100].
    """
    bad = [percentile for percentile in config.percentiles if not 0 < percentile <= 100]
    if bad or not config.percentiles:
        raise ValueError(f"percentiles {bad or config.percentiles}: give some, each above 0 and at most 100")


def short(settings: Settings, config: SweepConfig) -> Settings:
    """`settings` with the number of epochs and the seed of `config`."""
    values = settings.training.model_dump() | {"num_epochs": config.num_epochs, "seed": config.seed}
    return settings.model_copy(update={"training": TrainingSettings.model_validate(values)})
