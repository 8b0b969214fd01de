"""The automation: sensors observe the sources, and a condition rebuilds stale assets, in order, once.

An asset is rebuilt when all of its ancestors are fresh, so that it never mixes two edits. If its inputs turn out the
same after all, it is not rebuilt. There is one attempt for the same inputs and code: a failed asset is retried when one
of them changes, or by hand.

`staleness` decides which assets are stale.
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Iterable
from typing import Any, Final

import dagster as dg

from booru_embed_core.settings import SettingsError, load_settings
from booru_embed_dagster.automation.observation import (
    TABLE_REASON,
    WRITING_REASON,
    ObservedSource,
    export_source,
    is_being_written,
    observe_export,
    settings_sources,
    unrecorded,
)
from booru_embed_dagster.automation.staleness import Lineage
from booru_embed_dagster.failures import one_line_ticks

# Our own condition needs it, and it is beta in Dagster 1.13.
warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*use_user_code_server.*")

AUTOMATION_VARIABLE: Final = "BOORU_EMBED_AUTOMATION"
"""If it is "on", the sensor `rebuild_what_changed` is on by default."""
_SECONDS: Final = 10


class Stale(dg.AutomationCondition[dg.AssetKey]):
    """True if an asset is stale and can be rebuilt now; see the module's docstring.

    The cursor holds the versions of inputs and code for which the asset was last requested.
    """

    @property
    def name(self) -> str:
        """The text in the UI."""
        return "stale, with fresh inputs"

    @property
    def description(self) -> str:
        """The text in the UI."""
        return (
            "The asset was made from other versions than the current ones, its inputs are fresh, and no run builds "
            "them. True once for the same inputs and code."
        )

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """The asset itself or nothing."""
        lineage, key = _lineage(context.asset_graph_view), context.key
        cursor = context.cursor
        is_due = False
        if not lineage.is_stale(key):
            cursor = None
        elif not context.candidate_subset.is_empty and _settings_are_recorded(lineage):
            wanted = json.dumps(lineage.wanted(key), sort_keys=True)
            is_due = wanted != cursor and lineage.is_ready(key) and not lineage.is_being_made(key)
            cursor = wanted if is_due else cursor
        subset = context.candidate_subset if is_due else context.get_empty_subset()
        return dg.AutomationResult(context, subset, cursor=cursor)


# A failed blocking check stops a run; without the first half the next tick would continue below it.
REBUILD: Final = (
    ~dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
    )
    & Stale()
).with_label("rebuild if stale")


@dg.sensor(minimum_interval_seconds=_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
@one_line_ticks
def observe_settings(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Records the changed sections of settings.toml, so that the assets made from them show as stale."""
    return _record(context.instance, settings_sources(load_settings()))


@dg.sensor(minimum_interval_seconds=_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
@one_line_ticks
def observe_export_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Records the export when its files have changed and are completely written.

    For a BigQuery table use the schedule `refresh_from_bigquery` instead.
    """
    settings = load_settings()
    if settings.posts.reads_tables:
        return dg.SkipReason(TABLE_REASON)
    if is_being_written(settings):
        return dg.SkipReason(WRITING_REASON)
    return _record(context.instance, [export_source(observe_export(settings))])


rebuild_what_changed = dg.AutomationConditionSensorDefinition(
    "rebuild_what_changed",
    target=dg.AssetSelection.all(),
    description="Rebuilds, in order, the assets that an edit of the settings, a new export or new code made stale.",
    minimum_interval_seconds=_SECONDS,
    default_status=(
        dg.DefaultSensorStatus.RUNNING
        if os.environ.get(AUTOMATION_VARIABLE) == "on"
        else dg.DefaultSensorStatus.STOPPED
    ),
    # Otherwise Dagster's daemon evaluates the condition; it does not know ours and silently never fires.
    use_user_code_server=True,
)


@functools.lru_cache(maxsize=1)
def _lineage(view: Any) -> Lineage:
    """The lineage that all evaluations of one tick share: each tick has a view of its own."""
    return Lineage(view.instance, view.asset_graph)


def _record(instance: dg.DagsterInstance, sources: Iterable[ObservedSource]) -> dg.SensorResult | dg.SkipReason:
    news = unrecorded(instance, sources)
    if not news:
        return dg.SkipReason("nothing has changed")
    return dg.SensorResult(asset_events=[source.event for source in news])


def _settings_are_recorded(lineage: Lineage) -> bool:
    # A run reads the file when it starts: an edit that is not recorded yet would be mixed in.
    try:
        return lineage.has_seen(load_settings())
    except SettingsError:
        return False
