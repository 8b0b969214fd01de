"""Names of the assets, and the metadata of a run."""

from __future__ import annotations

import dagster as dg

from tests.dagster.project_helpers import Project

DATA_ASSETS = ("posts", "tag_frequencies", "vocab_cost", "vocab", "packed_tokens", "caption_lengths")
ALL_ASSETS = (*DATA_ASSETS, "checkpoint", "evaluation", "tag_embeddings", "post_embeddings")
Built = tuple[Project, dg.ExecuteInProcessResult]


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node(asset)
    return {key: value.value for key, value in event.metadata.items()}


def table_of(result: dg.ExecuteInProcessResult, asset: str, name: str) -> list[dict[str, object]]:
    (event,) = result.asset_materializations_for_node(asset)
    table = event.metadata[name]
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(record.data) for record in table.records]
