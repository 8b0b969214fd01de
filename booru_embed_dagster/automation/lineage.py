"""What is out of date, told from the events of Dagster's instance: no state of its own, and public API only.

Each materialization carries tags with the versions that it was made from and the version of its code.
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
    """The version of each input that the last materialization of `key` was made from, by name; empty where none is."""
    prefix = f"{INPUT_VERSION_TAG}/"
    tags = _last_tags(instance, key)
    return {name.removeprefix(prefix): version for name, version in tags.items() if name.startswith(prefix)}


class Lineage:
    """What an instance knows of the versions of a graph's assets, read when it is asked for and then kept."""

    def __init__(self, instance: dg.DagsterInstance, graph: BaseAssetGraph[Any]) -> None:
        self._instance = instance
        self._graph = graph
        # Reading an event takes milliseconds, and the daemon asks every few seconds.
        self._tags_of = functools.cache(functools.partial(_last_tags, instance))
        self._observed = functools.cache(functools.partial(recorded_version, instance))

    def version(self, key: dg.AssetKey) -> str | None:
        """The version of `key` that is current; None where it never was made or observed."""
        if key in self._graph.materializable_asset_keys:
            return self._tags_of(key).get(DATA_VERSION_TAG)
        return self._observed(key)

    def wanted(self, key: dg.AssetKey) -> dict[str, str | None]:
        """The tags that `key` would carry if it were made now: the versions of its inputs and of its code."""
        node = self._graph.get(key)
        inputs = {f"{INPUT_VERSION_TAG}/{parent.to_user_string()}": self.version(parent) for parent in node.parent_keys}
        return {CODE_VERSION_TAG: node.code_version, **inputs}

    def is_out_of_date(self, key: dg.AssetKey) -> bool:
        """Whether `key` never was made, or from anything else than it would be made from now."""
        tags = self._tags_of(key)
        made = {name: tag for name, tag in tags.items() if name.startswith((CODE_VERSION_TAG, INPUT_VERSION_TAG))}
        return made != self.wanted(key)

    def due(self) -> list[dg.AssetKey]:
        """All that are out of date and ready, sorted by key; not those that are made on demand alone."""
        keys = [key for key in self._graph.materializable_asset_keys if self._graph.get(key).automation_condition]
        return sorted(key for key in keys if self.is_out_of_date(key) and self.is_ready(key))

    def is_ready(self, key: dg.AssetKey) -> bool:
        """Whether all that `key` is made from, directly or not, has been observed and is up to date."""
        above = self._graph.get_ancestor_asset_keys(key)
        return all(
            not self.is_out_of_date(one) if one in self._graph.materializable_asset_keys else self.version(one)
            for one in above
        )

    def is_being_made(self, key: dg.AssetKey) -> bool:
        """Whether a run that has not ended makes `key` or something above it."""
        above = {key, *self._graph.get_ancestor_asset_keys(key)}
        return any(run.asset_selection is None or run.asset_selection & above for run in self._runs)

    def has_seen(self, settings: Settings) -> bool:
        """Whether the sections that were recorded last are those of `settings`."""
        return all(self.version(source.key) == source.version for source in settings_sources(settings))

    @functools.cached_property
    def _runs(self) -> Sequence[dg.DagsterRun]:
        return self._instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))


def _last_tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    event = instance.get_latest_materialization_event(key)
    made = event.asset_materialization if event else None
    return dict(made.tags or {}) if made else {}
