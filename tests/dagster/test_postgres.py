"""The instance in PostgreSQL: what one process records another one reads, with the yaml of deploy/."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import dagster as dg
import pytest
import yaml

from tests.dagster.postgres_helpers import Postgres
from tests.dagster.project_helpers import FILES_INSTANCE, POSTGRES_INSTANCE, REPOSITORY, Project


def test_the_instance_has_all_that_the_one_in_files_has() -> None:
    in_files = yaml.safe_load(FILES_INSTANCE.read_text(encoding="utf-8"))
    in_postgres = yaml.safe_load(POSTGRES_INSTANCE.read_text(encoding="utf-8"))
    assert list(in_postgres["storage"]) == ["postgres"]
    assert in_files.items() <= in_postgres.items()


@pytest.mark.slow
def test_what_the_command_line_materializes_another_process_reads(postgres: Postgres, project: Project) -> None:
    stored = replace(project, database=postgres.new_database())
    environment = {**os.environ, **stored.environment()}
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "booru_embed_dagster.definitions"]
    done = subprocess.run(
        [*command, "--select", "posts,tag_frequencies"],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with stored.instance() as instance:
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
        event = instance.get_latest_materialization_event(dg.AssetKey("tag_frequencies"))
        (run,) = instance.get_runs()
    assert event is not None
    assert event.run_id == run.run_id
    assert event.asset_materialization is not None
    version = (event.asset_materialization.tags or {})["dagster/data_version"]
    assert version == stored.warehouse.current("tag_frequencies").version


@pytest.mark.slow
def test_databases_of_two_projects_are_apart(postgres: Postgres, project: Project) -> None:
    one, other = (replace(project, database=postgres.new_database()) for _ in range(2))
    with one.instance() as instance:
        assert project.materialize("posts", instance).success
        assert len(instance.get_runs()) == 1
    with other.instance() as instance:
        assert instance.get_runs() == []
