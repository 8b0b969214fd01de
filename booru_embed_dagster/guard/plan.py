"""What a run would do: each asset with the reasons to rebuild it, and what it cost the last time.

All is read from the events of Dagster's instance, the settings and the export; nothing is recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from booru_embed_core.settings import Settings
from booru_embed_dagster.automation.observation import export_source, observe_export, settings_sources
from booru_embed_dagster.automation.provenance import changes, describe_inputs
from booru_embed_dagster.automation.staleness import Lineage

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

_SIZE: Final = "size_bytes"


@dataclass(frozen=True)
class PlannedAsset:
    """An asset of a run: why it would be rebuilt, and the cost of its last materialization, as far as it is known.

    `reasons` is empty if nothing that it is made from has changed, and nothing of that is rebuilt before it.
    """

    name: str
    reasons: tuple[str, ...]
    seconds: float | None
    num_bytes: int | None


def plan_run(
    instance: dg.DagsterInstance, graph: BaseAssetGraph[Any], keys: Set[dg.AssetKey], settings: Settings
) -> list[PlannedAsset]:
    """The assets among `keys` that a run would materialize, in order; sources are left out.

    Raises:
        ExportError: ``posts`` is among `keys`, and a file of the export is missing or its table cannot be read.
    """
    planned = [key for key in graph.toposorted_asset_keys if key in keys & graph.materializable_asset_keys]
    sources = settings_sources(settings)
    if dg.AssetKey("posts") in planned:  # the hash of the export may take a while
        sources.append(export_source(observe_export(settings)))
    now = {source.key: source.version for source in sources}
    lineage = Lineage(instance, graph)
    seconds_of = functools.cache(functools.partial(_seconds_by_step, instance))
    found = []
    for key in planned:
        event = instance.get_latest_materialization_event(key)
        before = event.asset_materialization if event else None
        parents = graph.get(key).parent_keys
        versions = {parent.to_user_string(): now.get(parent) or lineage.version(parent) for parent in parents}
        inputs = describe_inputs(instance, {name: version for name, version in versions.items() if version}, settings)
        reasons = changes(before, inputs, graph.get(key).code_version) if before else ["never built"]
        if above := [one.to_user_string() for one in planned if one in parents]:
            reasons.append(f"follows {', '.join(above)}")
        size = before.metadata.get(_SIZE) if before else None
        found.append(
            PlannedAsset(
                name=key.to_user_string(),
                reasons=tuple(reasons),
                seconds=seconds_of(event.run_id).get(event.step_key) if event else None,
                num_bytes=size.value if isinstance(size, dg.IntMetadataValue) else None,
            )
        )
    return found


def _seconds_by_step(instance: dg.DagsterInstance, run_id: str) -> dict[str | None, float]:
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    return {
        entry.step_key: entry.dagster_event.step_success_data.duration_ms / 1000
        for entry in events
        if entry.dagster_event
    }
