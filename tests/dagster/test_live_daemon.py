"""The automation with the real daemon: a number in settings.toml is edited, and nothing else is done."""

from __future__ import annotations

import dagster as dg
import pytest

from booru_embed_dagster.automation.sensors import AUTOMATION_VARIABLE
from booru_embed_dagster.definitions import defs
from tests.dagster.project_helpers import Project
from tests.dagster.server_helpers import Server, dagster_dev, wait_for

REBUILD_SECONDS = 600
STEADY_TICKS = 2
BELOW_VOCAB = ["packed_tokens", "caption_lengths", "checkpoint", "evaluation", "post_embeddings", "tag_embeddings"]
ASSETS = sorted(key.to_user_string() for key in defs.get_repository_def().asset_graph.materializable_asset_keys)
SHOWN = "{ assetNodes { assetKey { path } isMaterializable staleStatus } }"
TICKS = """query ($name: String!) { sensorOrError(sensorSelector: {repositoryName: "__repository__",
    repositoryLocationName: "booru_embed", sensorName: $name}) { ... on Sensor { sensorState { status ticks(limit: 100)
    { timestamp status } } } } }"""


def made_since(instance: dg.DagsterInstance, since: int) -> list[str]:
    """The assets that were materialized after the event `since`, in order."""
    found = []
    for name in ASSETS:
        records = instance.fetch_materializations(dg.AssetKey(name), limit=20).records
        found += [(record.storage_id, name) for record in records if record.storage_id > since]
    return [name for _, name in sorted(found)]


def last_event(instance: dg.DagsterInstance) -> int:
    keys = [dg.AssetKey(name) for name in ASSETS]
    return max(instance.fetch_materializations(key, limit=1).records[0].storage_id for key in keys)


def num_ticks(server: Server) -> int:
    state = server.graphql(TICKS, name="rebuild_what_changed")["sensorOrError"]["sensorState"]
    assert state["status"] == "RUNNING"
    ticks = state["ticks"]
    assert all(tick["status"] in ("SUCCESS", "SKIPPED", "STARTED") for tick in ticks), ticks
    return len([tick for tick in ticks if tick["status"] != "STARTED"])


def is_steady(server: Server, instance: dg.DagsterInstance) -> bool:
    """Whether the UI shows all as fresh and no run is going on."""
    nodes = server.graphql(SHOWN)["assetNodes"]
    unfinished = [status for status in dg.DagsterRunStatus if status.value in ("QUEUED", "STARTED", "STARTING")]
    runs = instance.get_runs(dg.RunsFilter(statuses=unfinished))
    return not runs and all(node["staleStatus"] == "FRESH" for node in nodes if node["isMaterializable"])


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_an_edit_rebuilds_what_it_touches_and_an_equal_vocabulary_nothing_below(stored: Project) -> None:
    with (
        stored.instance() as instance,
        dagster_dev(stored, {AUTOMATION_VARIABLE: "on"}) as server,
    ):
        percentile = 95.0
        if not stored.database:  # in PostgreSQL only the second edit is made: the daemon takes a minute for each
            percentile = 90.0
            follow_an_edit(stored, instance, server, percentile)
        follow_an_edit_to_an_equal_vocabulary(stored, instance, server, percentile + 0.0001)


def follow_an_edit(project: Project, instance: dg.DagsterInstance, server: Server, percentile: float) -> None:
    """Edits the percentile and looks at what ran."""
    before = last_event(instance)
    checkpoint = project.warehouse.current("checkpoint").version
    project.set(keep_percentile=percentile, num_epochs=1)
    wait_for(
        lambda: len(made_since(instance, before)) == 1 + len(BELOW_VOCAB) and is_steady(server, instance),
        REBUILD_SECONDS,
        server.log,
    )
    made = made_since(instance, before)
    assert made[:2] == ["vocab", "packed_tokens"]
    assert sorted(made) == sorted(["vocab", *BELOW_VOCAB])
    assert made.index("checkpoint") < min(made.index("evaluation"), made.index("tag_embeddings"))
    evaluation = instance.get_latest_materialization_event(dg.AssetKey("evaluation"))
    assert evaluation is not None
    assert evaluation.asset_materialization is not None
    shown = (evaluation.asset_materialization.tags or {})["dagster/input_data_version/checkpoint"]
    assert shown == project.warehouse.current("checkpoint").version != checkpoint


def follow_an_edit_to_an_equal_vocabulary(
    project: Project, instance: dg.DagsterInstance, server: Server, percentile: float
) -> None:
    """Edits the percentile to one that keeps the same tags, and looks at what ran."""
    before, vocab = last_event(instance), project.warehouse.current("vocab").version
    project.set(keep_percentile=percentile, num_epochs=1)
    wait_for(lambda: made_since(instance, before) and is_steady(server, instance), REBUILD_SECONDS, server.log)
    ticks = num_ticks(server)
    wait_for(lambda: num_ticks(server) >= ticks + STEADY_TICKS, REBUILD_SECONDS, server.log)
    assert made_since(instance, before) == ["vocab"]
    assert project.warehouse.current("vocab").version == vocab
