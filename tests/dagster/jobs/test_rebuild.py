"""The job `rebuild`, its schedule and its sensor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from booru_embed_dagster.automation.runs import REBUILD_TAG
from booru_embed_dagster.definitions import defs
from booru_embed_dagster.jobs.rebuild import rebuild_on_new_export, refresh_from_bigquery
from tests.dagster.project_helpers import Project, failure
from tests.dagster.test_live_daemon import last_event, made_since

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("light")]


@pytest.fixture
def project(settled: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    copied = settled.copy_to(tmp_path / "copy")
    for name, value in copied.environment().items():
        monkeypatch.setenv(name, value)
    return copied


@pytest.fixture
def instance(project: Project) -> Iterator[dg.DagsterInstance]:
    with project.instance() as opened:
        yield opened


def run_rebuild(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("rebuild").execute_in_process(instance=instance, raise_on_error=False)


def test_it_rebuilds_what_is_stale_in_order_and_nothing_the_second_time(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.set(num_epochs=1, keep_percentile=90)
    before = last_event(instance)
    done = run_rebuild(instance)
    assert done.success
    made = made_since(instance, before)
    assert made == [
        "vocab",
        "packed_tokens",
        "caption_lengths",
        "checkpoint",
        "evaluation",
        "post_embeddings",
        "tag_embeddings",
    ]
    assert len(instance.get_runs(dg.RunsFilter(tags={REBUILD_TAG: done.run_id}))) == len(made)
    before = last_event(instance)
    assert run_rebuild(instance).success
    assert made_since(instance, before) == []


def test_an_equal_vocabulary_leaves_alone_what_is_below(project: Project, instance: dg.DagsterInstance) -> None:
    project.set(keep_percentile=95.0001, num_epochs=1)
    before = last_event(instance)
    assert run_rebuild(instance).success
    assert made_since(instance, before) == ["vocab"]


def test_a_failure_ends_it_and_names_the_run_that_says_why(project: Project, instance: dg.DagsterInstance) -> None:
    project.export_file.write_text("not an export\n", encoding="utf-8")
    done = run_rebuild(instance)
    assert not done.success
    (run,) = instance.get_runs(dg.RunsFilter(tags={REBUILD_TAG: done.run_id}))
    assert failure(done) == f"posts failed; its run {run.run_id} says why"


def test_broken_settings_fail_it_with_their_line(project: Project, instance: dg.DagsterInstance) -> None:
    project.settings_file.write_text("[vocab]\nkeep_percentil = 90\n", encoding="utf-8")
    assert "keep_percentil" in failure(run_rebuild(instance))


def test_a_new_export_starts_it_once(project: Project, instance: dg.DagsterInstance) -> None:
    context = dg.build_sensor_context(instance=instance)
    os.utime(project.export_file, (1, 1))
    assert isinstance(rebuild_on_new_export(context), dg.SkipReason)
    with project.export_file.open("a", encoding="utf-8") as file:
        file.write("no post\n")
    assert isinstance(rebuild_on_new_export(context), dg.SkipReason)  # it may still be being written
    os.utime(project.export_file, (1, 1))
    request = rebuild_on_new_export(context)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key is not None
    project.export_file.unlink()
    with pytest.raises(ValueError, match="export"):
        rebuild_on_new_export(context)


def test_what_starts_it_is_off_by_default() -> None:
    assert rebuild_on_new_export.default_status is dg.DefaultSensorStatus.STOPPED
    assert refresh_from_bigquery.default_status is dg.DefaultScheduleStatus.STOPPED
    assert refresh_from_bigquery.job_name == rebuild_on_new_export.job_name == "rebuild"
