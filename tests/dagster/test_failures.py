"""Faults of the machine are failures of one line, also where an error names no folder, and in ticks."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy.exc

from booru_embed_core.settings import SETTINGS_VARIABLE
from booru_embed_dagster.automation import observation, sensors
from booru_embed_dagster.failures import machine_failure, one_line_ticks
from booru_embed_dagster.jobs import rebuild
from tests.dagster.project_helpers import Project, failure


def told(error: BaseException, warehouse: Path | None = None) -> str:
    """The line of the failure for `error`."""
    found = machine_failure(error, warehouse)
    assert found is not None
    assert not found.allow_retries
    return str(found.description)


def test_an_error_without_a_folder_is_one_of_the_warehouse(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.EROFS, "Read-only file system")
    assert told(error, Path("/wh")) == (
        "/wh: Read-only file system; mount it for writing, or set [warehouse] path to a folder on another disk; then "
        "materialize again"
    )
    monkeypatch.setenv(SETTINGS_VARIABLE, str(project.settings_file))
    assert told(error).startswith(f"{project.warehouse.root}: Read-only file system; ")
    monkeypatch.setenv(SETTINGS_VARIABLE, "/nowhere.toml")
    assert told(error).startswith(f"{Path.cwd()}: Read-only file system; ")


def test_an_error_of_the_instance_names_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    for words, reason in (
        ("disk I/O error", "Input/output error; check"),
        ("attempt to write a readonly database", "Read-only file system; mount"),
        ("unable to open database file", "Permission denied; give"),
        ("database or disk is full", "Input/output error (a file is not written whole); check"),  # the disk has room
    ):
        cause = sqlite3.OperationalError(words)
        for error in (cause, sqlalchemy.exc.OperationalError("insert", {}, cause)):
            line = told(error)
            assert line.startswith(f"{tmp_path}: {reason} ")
            assert line.endswith(", or point DAGSTER_HOME to a folder on another disk")
    assert machine_failure(sqlite3.OperationalError("no such table: runs")) is None


@pytest.mark.parametrize(
    "sensor", [sensors.observe_settings, sensors.observe_export_files, rebuild.rebuild_on_new_export]
)
def test_a_fault_of_the_machine_fails_a_tick_in_one_line(
    project: Project, monkeypatch: pytest.MonkeyPatch, sensor: dg.SensorDefinition
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "settings.toml")

    monkeypatch.setenv(SETTINGS_VARIABLE, str(project.settings_file))
    for module in (sensors, rebuild):
        monkeypatch.setattr(module, "load_settings", fail)
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(dg.Failure) as caught:
        sensor(dg.build_sensor_context(instance=instance))
    assert caught.value.description == ("settings.toml: Too many open files; raise the limit of open files (ulimit -n)")


def test_another_error_of_a_tick_stays_itself() -> None:
    @one_line_ticks
    def tick() -> None:
        """A tick."""
        raise RuntimeError("shapes do not match")

    assert tick.__doc__ == "A tick."
    with pytest.raises(RuntimeError, match="shapes do not match"):
        tick()


def test_an_export_that_cannot_be_read_fails_the_asset_that_reads_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(observation, "file_sha256", fail)
    assert failure(project.materialize("posts")) == (
        f"{project.export_file}: Input/output error; check the disk and its connection (dmesg)"
    )
