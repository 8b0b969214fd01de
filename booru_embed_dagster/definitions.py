"""The code location: assembly only.

Every asset that rebuilds with the vocabulary names it as a direct dependency, since ``vocab+`` is one level deep.
"""

import dagster as dg

from booru_embed_dagster import checks
from booru_embed_dagster.assets import evaluation, posts, search, sources, tags, tokens, training
from booru_embed_dagster.automation import alerts
from booru_embed_dagster.automation import sensors as automation
from booru_embed_dagster.executor import pick_executor
from booru_embed_dagster.jobs import percentile_sweep, pruning
from booru_embed_dagster.jobs import rebuild as rebuilding
from booru_embed_dagster.resources import Pipeline

MODULES = [posts, tags, tokens, training, evaluation, search]

defs = dg.Definitions(
    assets=[
        sources.posts_export,
        sources.settings_sections,
        *dg.load_assets_from_modules(MODULES, automation_condition=automation.REBUILD),
    ],
    asset_checks=dg.load_asset_checks_from_package_module(checks),
    jobs=[rebuilding.rebuild, percentile_sweep.sweep, pruning.prune],
    schedules=[rebuilding.refresh_from_bigquery],
    sensors=[
        automation.observe_settings,
        automation.observe_export_files,
        automation.rebuild_what_changed,
        rebuilding.rebuild_on_new_export,
        alerts.failure_webhook,
    ],
    resources={"pipeline": Pipeline()},
    executor=pick_executor(),
)
