"""Which assets are stale, read from the events of Dagster's instance: no state of its own, public API only.

An asset is stale when its last materialization was made from other versions of its inputs than the current ones, or by
another version of its code. Each materialization carries these versions as tags.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from booru_embed_core.settings import Settings
from booru_embed_dagster.automation.observation import DATA_VERSION_TAG, recorded_version, settings_sources
from booru_embed_dagster.automation.provenance import CODE_VERSION_TAG, INPUT_VERSION_TAG

if TYPE_CHECKING:  # `dagster` does not export the class of what its public attributes hold
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

_UNFINISHED: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def made_from(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """The version of each input of the last materialization of `key`, by name; empty before the first one."""
    prefix = f"{INPUT_VERSION_TAG}/"
    tags = _last_tags(instance, key)
    return {name.removeprefix(prefix): version for name, version in tags.items() if name.startswith(prefix)}


class Lineage:
    """What an instance knows of the versions of a graph's assets; read on demand and cached."""

    def __init__(self, instance: dg.DagsterInstance, graph: BaseAssetGraph[Any]) -> None:
        self._instance = instance
        self._graph = graph
        # Reading an event takes milliseconds, and the daemon asks every few seconds.
        self._tags_of = functools.cache(functools.partial(_last_tags, instance))
        self._observed = functools.cache(functools.partial(recorded_version, instance))

    def version(self, key: dg.AssetKey) -> str | None:
        """The current version of `key`; None before it was first materialized or observed."""
        if key in self._graph.materializable_asset_keys:
            return self._tags_of(key).get(DATA_VERSION_TAG)
        return self._observed(key)

    def wanted(self, key: dg.AssetKey) -> dict[str, str | None]:
        """The tags of `key` if it were materialized now: the versions of its inputs and of its code."""
        node = self._graph.get(key)
        inputs = {f"{INPUT_VERSION_TAG}/{parent.to_user_string()}": self.version(parent) for parent in node.parent_keys}
        return {CODE_VERSION_TAG: node.code_version, **inputs}

    def is_stale(self, key: dg.AssetKey) -> bool:
        """Whether `key` was never materialized, or from other versions than the current ones."""
        tags = self._tags_of(key)
        made = {name: tag for name, tag in tags.items() if name.startswith((CODE_VERSION_TAG, INPUT_VERSION_TAG))}
        return made != self.wanted(key)

    def due(self) -> list[dg.AssetKey]:
        """The assets that are stale and ready, sorted by key; without those that are only made on demand."""
        keys = [key for key in self._graph.materializable_asset_keys if self._graph.get(key).automation_condition]
        return sorted(key for key in keys if self.is_stale(key) and self.is_ready(key))

    def is_ready(self, key: dg.AssetKey) -> bool:
        """Whether every ancestor of `key` is fresh, and every source among them was observed."""
        above = self._graph.get_ancestor_asset_keys(key)
        return all(
            not self.is_stale(one) if one in self._graph.materializable_asset_keys else self.version(one)
            for one in above
        )

    def is_being_made(self, key: dg.AssetKey) -> bool:
        """Whether an unfinished run materializes `key` or one of its ancestors."""
        above = {key, *self._graph.get_ancestor_asset_keys(key)}
        return any(run.asset_selection is None or run.asset_selection & above for run in self._runs)

    def has_seen(self, settings: Settings) -> bool:
        """Whether the recorded sections are those of `settings`."""
        return all(self.version(source.key) == source.version for source in settings_sources(settings))

    @functools.cached_property
    def _runs(self) -> Sequence[dg.DagsterRun]:
        return self._instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))


def _last_tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    event = instance.get_latest_materialization_event(key)
    made = event.asset_materialization if event else None
    return dict(made.tags or {}) if made else {}
