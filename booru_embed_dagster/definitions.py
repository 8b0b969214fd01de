"""The code location: assembly only.

Every asset that depends on the vocabulary, directly or not, names it as a direct dependency: ``vocab+`` selects one
level.
"""

import dagster as dg

from booru_embed_dagster import checks
from booru_embed_dagster.assets import evaluation, posts, search, sources, tags, tokens, training
from booru_embed_dagster.automation import alerts, sensors
from booru_embed_dagster.executor import pick_executor
from booru_embed_dagster.jobs import percentile_sweep, pruning, rebuild
from booru_embed_dagster.resources import Pipeline

MODULES = [posts, tags, tokens, training, evaluation, search]

defs: dg.Definitions = dg.Definitions(
    assets=[
        sources.posts_export,
        sources.settings_sections,
        *dg.load_assets_from_modules(MODULES, automation_condition=sensors.REBUILD),
    ],
    asset_checks=dg.load_asset_checks_from_package_module(checks),
    jobs=[rebuild.rebuild_job(lambda: defs), percentile_sweep.sweep, pruning.prune],
    schedules=[rebuild.refresh_from_bigquery],
    sensors=[
        sensors.observe_settings,
        sensors.observe_export_files,
        sensors.rebuild_what_changed,
        rebuild.rebuild_on_new_export,
        alerts.failure_webhook,
    ],
    resources={"pipeline": Pipeline()},
    executor=pick_executor(),
)
