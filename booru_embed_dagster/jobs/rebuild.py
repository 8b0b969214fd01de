"""The job `rebuild`: makes all that is out of date, in order, where the automation is off.

One run of all of it could not leave out what turns out to be up to date once its inputs are made. So the job makes one
asset after the other, each in a run of its own, and looks again after each.
"""

from typing import Final

import dagster as dg

from booru_embed_core.settings import load_settings
from booru_embed_dagster.automation.lineage import Lineage, made_from
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
from booru_embed_dagster.resources import Pipeline, one_line_errors

REBUILD_TAG: Final = "booru_embed/rebuild"
"""The tag by which the runs of one rebuild are found; its value is the id of the job's own run."""


@dg.op
def make_what_is_out_of_date(context: dg.OpExecutionContext, pipeline: Pipeline) -> None:
    """Observes the sources, then makes each asset that is out of date, from the top of the lineage down."""
    from booru_embed_dagster.definitions import defs  # which this job is a part of

    _observe(context.instance, pipeline)
    job, graph = defs.resolve_implicit_global_asset_job_def(), defs.get_repository_def().asset_graph
    made = []
    while due := Lineage(context.instance, graph).due():
        key = due[0]
        name = key.to_user_string()
        if key in made:
            raise dg.Failure(f"{name} is out of date again after it was made; has settings.toml changed meanwhile?")
        context.log.info(f"{name} is out of date")
        done = job.execute_in_process(
            asset_selection=[key],
            instance=context.instance,
            tags={REBUILD_TAG: context.run_id},
            raise_on_error=False,
        )
        if not done.success:
            raise dg.Failure(f"{name} failed; its run {done.run_id} says why", allow_retries=False)
        made.append(key)
    context.log.info(f"made {', '.join(key.to_user_string() for key in made)}" if made else "nothing is out of date")


@dg.job(description="Makes all that is out of date, from the top of the lineage down.")
def rebuild() -> None:
    """One op: which assets it makes shows only as it goes."""
    make_what_is_out_of_date()


@one_line_errors
def _observe(instance: dg.DagsterInstance, pipeline: Pipeline) -> None:
    for source in unrecorded(instance, [*settings_sources(pipeline.settings), export_source(pipeline.export)]):
        instance.report_runless_asset_event(source.event)


refresh_from_bigquery = dg.ScheduleDefinition(
    name="refresh_from_bigquery",
    job=rebuild,
    cron_schedule="0 3 * * *",
    description="Every night at three: asks whether the export, a table in BigQuery above all, has changed, and makes "
    "what is then out of date.",
)


# By its name: with the job itself, Dagster 1.13 warns of a beta parameter that it passes on itself.
@dg.sensor(job_name="rebuild", minimum_interval_seconds=60)
def rebuild_on_new_export(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Starts `rebuild` when the export's files are not those that the posts were made from: for a folder of drops."""
    settings = load_settings()
    if settings.posts.bigquery_table is not None:
        return dg.SkipReason(TABLE_REASON)
    if is_being_written(settings):
        return dg.SkipReason(WRITING_REASON)
    version = observe_export(settings).version
    if version == made_from(context.instance, dg.AssetKey("posts")).get(POSTS_EXPORT):
        return dg.SkipReason("the posts were made from this export")
    return dg.RunRequest(run_key=version)  # Dagster starts one run a key: what fails is not tried again by itself
