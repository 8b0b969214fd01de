"""A BigQuery table as the export of the pipeline, from an emulator: what is observed, built, rebuilt and refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg
import grpc
import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts import bigquery_access
from booru_embed_core.posts.bigquery import TableState
from booru_embed_core.posts.bigquery_access import Access
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.schema import FLAG_COLUMNS, TAG_COLUMNS
from booru_embed_dagster.automation.observation import Observation
from tests.dagster.project_helpers import Project, failure, versions
from tests.emulator_helpers import Emulator, access_at, load_table, scripted_server

NUM_ROWS = 600


def table_rows(first: int, stop: int) -> list[dict[str, object]]:
    """Posts in no order of ids; one in 50 is deleted."""
    ids = sorted(range(first, stop), key=lambda post_id: post_id * 7919 % 1009)
    return [
        {
            "id": post_id,
            "rating": "gsqe"[post_id % 4],
            "score": post_id % 300,
            **{name: f"{name}_{post_id % 7} common" for name in TAG_COLUMNS},
            **{name: name == "is_deleted" and post_id % 50 == 0 for name in FLAG_COLUMNS},
        }
        for post_id in ids
    ]


def use_table(project: Project, *lines: str) -> None:
    settings = project.settings_file.read_text(encoding="utf-8")
    project.settings_file.write_text(settings.replace('export = ["export/*.csv"]', "\n".join(lines)), encoding="utf-8")


@pytest.fixture
def reachable(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator, which is there for any project as Google is for credentials that it knows."""

    @contextmanager
    def open_access(project: str | None = None) -> Iterator[Access]:
        with access_at(emulator.grpc_port, emulator.rest_port) as access:
            yield access

    monkeypatch.setattr(bigquery_access, "open_access", open_access)
    return emulator


def observed(result: dg.ExecuteInProcessResult) -> dg.AssetObservation:
    (event,) = result.get_asset_observation_events()
    return event.asset_observation_data.asset_observation


def test_a_table_is_observed_and_read_and_a_change_of_it_rebuilds(project: Project, reachable: Emulator) -> None:
    table = "danbooru1.pipeline.posts"
    load_table(reachable, table, table_rows(1, NUM_ROWS + 1))
    use_table(project, f'bigquery_table = "{table}"', "min_score = 10")
    first = project.materialize("posts_export,posts")
    assert first.success
    metadata = observed(first).metadata
    assert (metadata["table"].value, metadata["num_rows"].value) == (table, NUM_ROWS)
    folder = project.folder / "warehouse/posts/current"
    report = PostsReport.from_json((folder / "report.json").read_text(encoding="utf-8"))
    ids = [row["id"] for file in sorted(folder.glob("part-*")) for row in pq.read_table(file).to_pylist()]
    assert ids == [row for row in range(1, NUM_ROWS + 1) if row % 50 and row % 300 >= 10]
    assert [counts.file for counts in report.files] == [f"{table}.parquet"]
    assert (report.num_read, report.num_kept) == (NUM_ROWS - NUM_ROWS // 50, len(ids))
    assert report.num_filtered == report.num_read - len(ids)

    again = project.materialize("posts_export,posts")
    assert observed(again).data_version == observed(first).data_version
    assert versions(again) == versions(first)

    load_table(reachable, table, [*table_rows(NUM_ROWS + 1, NUM_ROWS + 30), *table_rows(20, 22)])
    changed = project.materialize("posts_export,posts")
    assert observed(changed).data_version != observed(first).data_version
    assert versions(changed) != versions(first)
    report = PostsReport.from_json((folder / "report.json").read_text(encoding="utf-8"))
    assert (report.num_kept, report.num_duplicate) == (len(ids) + 20, 2)  # of the 29 new ones 9 score too low


def test_the_version_follows_the_time_of_change_and_the_rows() -> None:
    states = [
        TableState(table=table, last_modified=f"2026-01-01T00:00:{second}.000+00:00", num_rows=num_rows)
        for table in ("a.b.c", "a.b.d")
        for second in ("00", "01")
        for num_rows in (1, 2)
    ]
    assert len({Observation((), tables).version for tables in [(), *((state,) for state in states)]}) == len(states) + 1
    assert Observation((), (states[0],)).version == Observation((), (replace(states[0]),)).version


def test_files_beside_a_table_are_refused(project: Project) -> None:
    settings = project.settings_file.read_text(encoding="utf-8")
    project.settings_file.write_text(settings.replace("[posts]", '[posts]\nbigquery_table = "a.b.c"'), encoding="utf-8")
    assert "export and bigquery_table (a.b.c) are both set; remove one of them" in failure(project.materialize("posts"))


@pytest.mark.parametrize("asset", ["posts_export", "posts"])
def test_missing_credentials_and_a_missing_project_are_one_line(
    project: Project, bare: Path, monkeypatch: pytest.MonkeyPatch, asset: str
) -> None:
    use_table(project, 'bigquery_table = "danbooru1.danbooru_public.posts"')
    message = failure(project.materialize(asset))
    assert message.startswith("no Google credentials (")
    assert "\n" not in message
    key = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    (bare / "key.json").write_text(json.dumps(key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(bare / "key.json"))
    assert failure(project.materialize(asset)).startswith("no Google Cloud project to read with: ")


def test_a_missing_permission_is_one_line_and_leaves_nothing(
    project: Project, reachable: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = "danbooru1.refused.posts"
    load_table(reachable, table, table_rows(1, 5))
    use_table(project, f'bigquery_table = "{table}"')

    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "bigquery.readsessions.create denied\nmore")
        raise AssertionError

    @contextmanager
    def open_access(project: str | None = None) -> Iterator[Access]:
        with (
            scripted_server(refuse, lambda request, context: iter(())) as port,
            access_at(port, reachable.rest_port) as access,
        ):
            yield access

    monkeypatch.setattr(bigquery_access, "open_access", open_access)
    message = failure(project.materialize("posts"))
    assert message.startswith(f"{table}: project 'reader' may not read it (403 bigquery.readsessions.create denied); ")
    assert "\n" not in message
    assert [path for path in (project.folder / "warehouse").rglob("*") if path.is_file() and path.suffix] == []


@pytest.mark.parametrize("asset", ["posts_export", "posts"])
def test_the_missing_extra_is_named_in_one_line(project: Project, monkeypatch: pytest.MonkeyPatch, asset: str) -> None:
    use_table(project, 'bigquery_table = "danbooru1.danbooru_public.posts"')
    package = sys.modules["booru_embed_core.posts"]
    for name in ("bigquery", "bigquery_access"):
        monkeypatch.delitem(sys.modules, f"booru_embed_core.posts.{name}", raising=False)
        monkeypatch.delattr(package, name, raising=False)
    monkeypatch.setitem(sys.modules, "google.auth", None)
    message = failure(project.materialize(asset))
    assert message == "Google's client is missing; pip install 'booru-embed[bigquery]'"
