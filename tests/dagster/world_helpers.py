"""A project with its instance, its sensors and its automation, turned by hand: one tick at a time, no daemon."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from booru_embed_dagster.automation.sensors import observe_export_files, observe_settings
from booru_embed_dagster.definitions import defs as project_defs
from tests.dagster.project_helpers import Project

MAX_TICKS = 12


@dataclass
class World:
    """What the daemon would do, by calls: `settle` ticks until nothing is requested any more."""

    project: Project
    instance: dg.DagsterInstance
    defs: dg.Definitions = project_defs
    ran: list[list[str]] = field(default_factory=list)
    """The assets of each tick that requested any, in order."""
    failed: list[str] = field(default_factory=list)
    cursor: Any = None

    def observe(self) -> None:
        """One tick of each sensor that observes; their events are recorded."""
        for file in (self.project.folder / "export").iterdir():
            os.utime(file, (1, 1))  # else they wait for the writer to end
        for sensor in (observe_settings, observe_export_files):
            result = sensor(dg.build_sensor_context(instance=self.instance))
            if isinstance(result, dg.SensorResult):
                for event in result.asset_events:
                    self.instance.report_runless_asset_event(event)

    def tick(self) -> list[str]:
        """One tick of the automation; the names of what it requests."""
        result = dg.evaluate_automation_conditions(
            self.defs, self.instance, asset_selection=dg.AssetSelection.all(), cursor=self.cursor
        )
        self.cursor = result.cursor
        graph = self.defs.get_repository_def().asset_graph
        keys = graph.materializable_asset_keys
        return sorted(key.to_user_string() for key in keys if result.get_num_requested(key))

    def run(self, names: Sequence[str]) -> dg.ExecuteInProcessResult:
        """A run of `names`, as the daemon or a person starts it."""
        return self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[dg.AssetKey(name) for name in names], instance=self.instance, raise_on_error=False
        )

    def settle(self) -> list[list[str]]:
        """What runs, tick by tick, until nothing is requested."""
        self.observe()
        for _ in range(MAX_TICKS):
            if not (names := self.tick()):
                return self.ran
            self.ran.append(names)
            if not self.run(names).success:
                self.failed += names
        raise AssertionError(f"still running after {MAX_TICKS} ticks: {self.ran}")
