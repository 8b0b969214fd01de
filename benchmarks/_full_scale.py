"""What a stage of the full-scale benchmark is, and where it finds its inputs. Stages stand in ``_full_scale_*.py``."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from booru_embed_core.settings import Settings, load_settings

SETTINGS_VARIABLE: Final = "BOORU_EMBED_SETTINGS"


@dataclass(frozen=True)
class Place:
    """Where a stage reads and writes.

    Attributes:
        settings_file: names the export and the warehouse.
        scratch: an existing folder of the benchmark, on a disk with some gigabytes; it outlives a stage.
    """

    settings_file: Path
    scratch: Path

    @property
    def settings(self) -> Settings:
        """The settings in `settings_file`."""
        return load_settings(self.settings_file)

    def current(self, asset: str) -> Path:
        """The folder of the current version of `asset` in the warehouse.

        Raises:
            SystemExit: there is none.
        """
        folder = self.settings.warehouse_path / asset / "current"
        if not folder.is_dir():
            raise SystemExit(f"{folder}: does not exist; run the stage {asset} first")
        return folder.resolve()


@dataclass(frozen=True)
class Stage:
    """One row of the table, measured in a process of its own.

    Attributes:
        name: of the row.
        run: does the work and returns further figures. ``rows`` is divided by the CPU seconds, ``disk_bytes`` is the
            size of the product. A figure named ``cpu_seconds`` or ``peak_mb`` replaces that of the process, as for a
            server that the stage starts.
        prepare: what has to exist and does not count, such as an untrained checkpoint; it runs in the same process.
        limits: the highest accepted value of figures, by name.
        before: the figures of the build before issue 19, as they were measured then. Empty where none was.
    """

    name: str
    run: Callable[[Place], Mapping[str, Any]]
    prepare: Callable[[Place], object] | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)


def measured(stage: Stage, place: Place) -> dict[str, Any]:
    """The figures of `stage`: CPU seconds and peak memory of this process and its children, and its own figures.

    Run it in a fresh process: the peak is that since its start, `Stage.prepare` included.
    """
    if stage.prepare is not None:
        stage.prepare(place)
    before = cpu_seconds()
    found = dict(stage.run(place))
    figures = {"cpu_seconds": round(cpu_seconds() - before, 2), "peak_mb": peak_mb()} | found
    if "rows" in found:
        figures["rows_per_cpu_second"] = round(found["rows"] / max(1e-9, figures["cpu_seconds"]))
    return figures


def cpu_seconds() -> float:
    """CPU seconds (user and system) of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_mb() -> int:
    """The highest resident memory of this process or of one child, in MB."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(max(_own_peak_kilobytes(), children) * 1024 / 1e6)


def own_peak_mb() -> int:
    """The highest resident memory of this process so far, in MB; files that it has mapped count as far as it read."""
    return round(_own_peak_kilobytes() * 1024 / 1e6)


def _own_peak_kilobytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` starts with the parent's memory
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def folder_bytes(folder: Path) -> int:
    """The size of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def asset_stage(
    asset: str,
    rows: str | None = None,
    limits: Mapping[str, float] | None = None,
    before: Mapping[str, float] | None = None,
) -> Stage:
    """The stage that materializes `asset` through Dagster, with its checks.

    Args:
        asset: its name, which is that of the stage.
        rows: metadata that holds the number of rows.
        limits: as in `Stage`.
        before: as in `Stage`.
    """
    return Stage(asset, lambda place: materialized(place, asset, rows), _import_dagster, limits or {}, before or {})


def materialized(place: Place, asset: str, rows: str | None) -> dict[str, Any]:
    """Runs `asset` through Dagster into the warehouse; returns the size of its product, and its rows.

    Its checks may fail: an untrained checkpoint costs the same, and is worse than the baselines.
    """
    import dagster as dg

    os.environ[SETTINGS_VARIABLE] = str(place.settings_file)
    from booru_embed_dagster.definitions import defs

    home = place.scratch / "dagster"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    job, instance = defs.resolve_implicit_global_asset_job_def(), dg.DagsterInstance.from_config(str(home))
    result = job.execute_in_process(asset_selection=[dg.AssetKey(asset)], instance=instance, raise_on_error=False)
    made = result.asset_materializations_for_node(asset)
    if len(made) != 1:
        raise SystemExit(f"{asset} failed; see above")
    (event,) = made
    figures: dict[str, Any] = {"disk_bytes": folder_bytes(place.current(asset))}
    return figures if rows is None else figures | {"rows": event.metadata[rows].value}


def _import_dagster(place: Place) -> None:
    os.environ[SETTINGS_VARIABLE] = str(place.settings_file)
    import booru_embed_dagster.definitions  # noqa: F401
