"""The observable sources: the export and the sections of the settings.

Annotations are evaluated here (no ``from __future__ import annotations``): Dagster reads them.
"""

import warnings
from collections.abc import Iterator

import dagster as dg

from booru_embed_core.settings import OBSERVED_SECTIONS
from booru_embed_dagster.automation.observation import POSTS_EXPORT, export_source, settings_key, settings_sources
from booru_embed_dagster.resources import Pipeline, one_line_errors

# Observable sources are beta in Dagster 1.13 and say so at each import.
warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*observable_source_asset.*")


@dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]  # untyped in Dagster
    specs=[
        dg.AssetSpec(
            POSTS_EXPORT,
            group_name="posts",
            kinds={"csv"},
            description="The Danbooru export that settings.toml names: the files of `[posts] export` or the table "
            "`[posts] bigquery_table`, and the tables of tags. Its data version changes when a file is added, removed "
            "or changed, or when the table changes.",
        )
    ]
)
@one_line_errors
def posts_export(pipeline: Pipeline) -> dg.ObserveResult:
    """Hashes the export's files, or reads the table's time of change and number of rows from BigQuery."""
    return export_source(pipeline.export).result


@dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]  # untyped in Dagster
    specs=[
        dg.AssetSpec(
            settings_key(section),
            group_name="settings",
            kinds={"toml"},
            description=f"The section `[{section}]` of settings.toml. When one of its values changes, so does its data "
            "version, and the assets made from it are stale.",
        )
        for section in OBSERVED_SECTIONS
    ],
    can_subset=True,
)
def settings_sections(context: dg.AssetExecutionContext, pipeline: Pipeline) -> Iterator[dg.ObserveResult]:
    """Hashes each selected section."""
    yield from _observe_sections(pipeline, context.selected_asset_keys)


@one_line_errors
def _observe_sections(pipeline: Pipeline, keys: set[dg.AssetKey] | frozenset[dg.AssetKey]) -> list[dg.ObserveResult]:
    return [source.result for source in settings_sources(pipeline.settings) if source.key in keys]
