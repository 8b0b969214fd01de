"""Export → posts.

The modules of assets have no ``from __future__ import annotations``: Dagster reads the annotations of an asset's
parameters when it is defined.
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
    code_version="5",  # separators, nothing, numbers and nested values of any export
    deps=[POSTS_EXPORT, settings_key("posts")],
)
@one_line_errors
def posts(pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """Every post of the export once, with a list of tags for each category.

    Posts are in export order, or by ascending id if the export is a BigQuery table.

    Malformed and repeated lines are in `rejects.parquet` with file, line, reason and raw text. `report.json` accounts
    for every line that was read, including the posts that the settings filter out.
    """
    settings = pipeline.settings
    sources = {POSTS_EXPORT: pipeline.export.version}
    with pipeline.new_version("posts", sections=["posts"], sources=sources) as draft:
        say = dg.get_dagster_logger().info
        report = read_export(settings.posts, settings.root, draft.path, settings.duckdb, draft.scratch, say)
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
