"""Export → posts.

This module and its neighbours evaluate their annotations (no ``from __future__ import annotations``): Dagster reads
those of an asset's parameters when it is defined.
"""

import dagster as dg

from booru_embed_core.posts.parquet_parts import part_files
from booru_embed_core.posts.read_export import read_export
from booru_embed_dagster.assets import OWNERS
from booru_embed_dagster.automation.observation import POSTS_EXPORT, settings_key
from booru_embed_dagster.presentation.metadata import materialized, parquet_metadata
from booru_embed_dagster.resources import Pipeline, one_line_errors


@dg.asset(
    group_name="posts",
    owners=OWNERS,
    kinds={"duckdb", "parquet"},
    code_version="3",
    deps=[POSTS_EXPORT, settings_key("posts")],
)
@one_line_errors
def posts(pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """Every post of the export once, with a list of tags for each category.

    They are in export order, those of a BigQuery table by ascending id.

    Lines that are malformed or repeat a post are set aside in `rejects.parquet` with file, line, reason and raw text;
    `report.json` accounts for every line that was read, the posts that the settings filter out included.
    """
    settings = pipeline.settings
    sources = {POSTS_EXPORT: pipeline.export.version}
    with pipeline.new_version("posts", sections=["posts"], sources=sources) as draft:
        report = read_export(settings.posts, settings.root, draft.path, settings.duckdb, draft.scratch)
    return materialized(
        pipeline,
        draft,
        **parquet_metadata(part_files(draft.product.path)),
        num_read=report.num_read,
        num_duplicate=report.num_duplicate,
        num_rejected=report.num_rejected,
        num_filtered=report.num_filtered,
        num_aliases=report.num_aliases,
        num_repeats=report.num_repeats,
        num_unknown_tags=report.num_unknown_tags,
    )
