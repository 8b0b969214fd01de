"""The job `rebuild`: rebuilds all stale assets in order, for instances whose automation is off.

A single run of all of them could not skip an asset that turns out to be fresh once its inputs are rebuilt. So the job
rebuilds one asset at a time, each in a run of its own, and looks for stale assets again after each.
"""

from collections.abc import Callable

import dagster as dg

from booru_embed_core.settings import load_settings
from booru_embed_dagster.automation.observation import (
    POSTS_EXPORT,
    TABLE_REASON,
    WRITING_REASON,
    export_source,
    is_being_written,
    observe_export,
    settings_sources,
    unrecorded,
)
from booru_embed_dagster.automation.runs import REBUILD_TAG
from booru_embed_dagster.automation.staleness import Lineage, made_from
from booru_embed_dagster.failures import one_line_ticks
from booru_embed_dagster.resources import Pipeline, one_line_errors


def rebuild_job(definitions: Callable[[], dg.Definitions]) -> dg.JobDefinition:
    """The job `rebuild` of a code location.

    Args:
        definitions: returns the definitions whose assets are rebuilt. The job is part of them, so they are asked for
            when it runs.
    """

    @dg.op
    @one_line_errors
    def rebuild_stale_assets(context: dg.OpExecutionContext, pipeline: Pipeline) -> None:
        """Observes the sources, then rebuilds each stale asset, from the top of the lineage down."""
        _observe(context.instance, pipeline)
        rebuilt = _rebuild(context, definitions())
        names = ", ".join(key.to_user_string() for key in rebuilt)
        context.log.info(f"rebuilt {names}" if rebuilt else "nothing is stale")

    @dg.job(description="Rebuilds all stale assets, from the top of the lineage down.")
    def rebuild() -> None:
        """One op: which assets are rebuilt is known only as it runs."""
        rebuild_stale_assets()

    return rebuild


def _rebuild(context: dg.OpExecutionContext, definitions: dg.Definitions) -> list[dg.AssetKey]:
    job = definitions.resolve_implicit_global_asset_job_def()
    graph = definitions.get_repository_def().asset_graph
    rebuilt: list[dg.AssetKey] = []
    while due := Lineage(context.instance, graph).due():
        key = due[0]
        name = key.to_user_string()
        if key in rebuilt:
            raise dg.Failure(f"{name} is stale again after it was rebuilt; was settings.toml edited meanwhile?")
        context.log.info(f"{name} is stale")
        done = job.execute_in_process(
            asset_selection=[key],
            instance=context.instance,
            tags={REBUILD_TAG: context.run_id},
            raise_on_error=False,
        )
        if not done.success:
            raise dg.Failure(f"{name} failed; its run {done.run_id} says why", allow_retries=False)
        rebuilt.append(key)
    return rebuilt


@one_line_errors
def _observe(instance: dg.DagsterInstance, pipeline: Pipeline) -> None:
    for source in unrecorded(instance, [*settings_sources(pipeline.settings), export_source(pipeline.export)]):
        instance.report_runless_asset_event(source.event)


refresh_from_bigquery = dg.ScheduleDefinition(
    name="refresh_from_bigquery",
    job_name="rebuild",
    cron_schedule="0 3 * * *",
    description="Every night at three: looks for changes of the export, a BigQuery table above all, and rebuilds the "
    "stale assets.",
)


# By its name: with the job itself, Dagster 1.13 warns of a beta parameter that it passes on itself.
@dg.sensor(job_name="rebuild", minimum_interval_seconds=60)
@one_line_ticks
def rebuild_on_new_export(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Starts `rebuild` when the export's files differ from those that the posts were made from."""
    settings = load_settings()
    if settings.posts.reads_tables:
        return dg.SkipReason(TABLE_REASON)
    if is_being_written(settings):
        return dg.SkipReason(WRITING_REASON)
    version = observe_export(settings).version
    if version == made_from(context.instance, dg.AssetKey("posts")).get(POSTS_EXPORT):
        return dg.SkipReason("the posts were made from this export")
    return dg.RunRequest(run_key=version)  # Dagster starts one run for each key: a failed rebuild is not retried
