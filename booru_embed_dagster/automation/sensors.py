"""What happens by itself: sources are observed, and what they make out of date is made again, in order, once.

An asset is out of date where its last materialization was made from other versions than there are now, or by another
version of its code. It is made again once everything above it is up to date, so that it never sees two edits mixed,
and never where what it would be made from came out the same. One attempt for the same inputs and code: what fails is
tried again when one of them changes, or by hand.

What is out of date, and of what, stands in ``lineage.py``.
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
from booru_embed_dagster.automation.lineage import Lineage
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

# It is what lets our own condition run, and is beta in Dagster 1.13.
warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*use_user_code_server.*")

AUTOMATION_VARIABLE: Final = "BOORU_EMBED_AUTOMATION"
"""Where it is "on", `rebuild_what_changed` runs without a click."""
_SECONDS: Final = 10


class Stale(dg.AutomationCondition[dg.AssetKey]):
    """True where an asset is out of date and its turn has come; see the module's docstring.

    The cursor is what the asset was last requested for: the versions of its inputs and its code.
    """

    @property
    def name(self) -> str:
        """As the UI shows it."""
        return "out of date, and its turn has come"

    @property
    def description(self) -> str:
        """As the UI shows it."""
        return (
            "Made from other versions than there are now, while all that it is made from is up to date and not being "
            "made; true once for the same inputs and code."
        )

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """The asset itself or nothing."""
        lineage, key = _lineage(context.asset_graph_view), context.key
        cursor = context.cursor
        is_due = False
        if not lineage.is_out_of_date(key):
            cursor = None
        elif not context.candidate_subset.is_empty and _settings_are_recorded(lineage):
            wanted = json.dumps(lineage.wanted(key), sort_keys=True)
            is_due = wanted != cursor and lineage.is_ready(key) and not lineage.is_being_made(key)
            cursor = wanted if is_due else cursor
        subset = context.candidate_subset if is_due else context.get_empty_subset()
        return dg.AutomationResult(context, subset, cursor=cursor)


# A blocking check that failed stops a run; without the first half the next tick would go on where it stopped.
REBUILD: Final = (
    ~dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
    )
    & Stale()
).with_label("rebuild what is out of date")


@dg.sensor(minimum_interval_seconds=_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
def observe_settings(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Records the sections of settings.toml that changed, so that what is made from them shows as out of date."""
    return _record(context.instance, settings_sources(load_settings()))


@dg.sensor(minimum_interval_seconds=_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
def observe_export_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Records the export when its files have changed and are no longer being written.

    A table in BigQuery is not asked for by this: see the schedule `refresh_from_bigquery`.
    """
    settings = load_settings()
    if settings.posts.bigquery_table is not None:
        return dg.SkipReason(TABLE_REASON)
    if is_being_written(settings):
        return dg.SkipReason(WRITING_REASON)
    return _record(context.instance, [export_source(observe_export(settings))])


rebuild_what_changed = dg.AutomationConditionSensorDefinition(
    "rebuild_what_changed",
    target=dg.AssetSelection.all(),
    description="Makes again what an edit of the settings, a new export or new code has put out of date, in order.",
    minimum_interval_seconds=_SECONDS,
    default_status=(
        dg.DefaultSensorStatus.RUNNING
        if os.environ.get(AUTOMATION_VARIABLE) == "on"
        else dg.DefaultSensorStatus.STOPPED
    ),
    # Elsewhere Dagster's daemon would evaluate it, which does not know our condition and silently never fires.
    use_user_code_server=True,
)


@functools.lru_cache(maxsize=1)
def _lineage(view: Any) -> Lineage:
    """What the evaluations of one tick share: each tick has a view of its own."""
    return Lineage(view.instance, view.asset_graph)


def _record(instance: dg.DagsterInstance, sources: Iterable[ObservedSource]) -> dg.SensorResult | dg.SkipReason:
    news = unrecorded(instance, sources)
    if not news:
        return dg.SkipReason("nothing has changed")
    return dg.SensorResult(asset_events=[source.event for source in news])


def _settings_are_recorded(lineage: Lineage) -> bool:
    # A run reads the file as it is then: what was not recorded yet, or cannot be read, would be mixed in.
    try:
        return lineage.has_seen(load_settings())
    except SettingsError:
        return False
