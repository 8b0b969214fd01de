"""A plan says why each asset is built and what it cost, from the events of the instance alone."""

from __future__ import annotations

import dagster as dg
import pytest

from booru_embed_core.settings import Settings, load_settings
from booru_embed_dagster.definitions import defs
from booru_embed_dagster.guard.plan import PlannedAsset, plan_run
from booru_embed_dagster.guard.selection import select_assets
from tests.dagster.project_helpers import Project

GRAPH = defs.get_repository_def().asset_graph


def planned(project: Project, selection: str, settings: Settings | None = None) -> dict[str, PlannedAsset]:
    keys = set(select_assets(selection, GRAPH))
    with project.instance() as instance:
        found = plan_run(instance, GRAPH, keys, settings or load_settings(project.settings_file))
    return {one.name: one for one in found}


def test_a_fresh_asset_has_no_reason_and_the_cost_of_its_last_run(settled: Project) -> None:
    for name, one in planned(settled, "vocab,packed_tokens,settings/vocab").items():
        assert one.reasons == ((), ("follows vocab",))[name == "packed_tokens"]
        product = settled.warehouse.current(name).path
        assert one.num_bytes == sum(file.stat().st_size for file in product.iterdir())
        with settled.instance() as instance:
            event = instance.get_latest_materialization_event(dg.AssetKey(name))
            assert event is not None
            (step,) = instance.get_run_step_stats(event.run_id, [name])
        assert step.end_time is not None
        assert step.start_time is not None
        assert one.seconds == pytest.approx(step.end_time - step.start_time, abs=0.5)


def test_an_edit_is_a_reason_before_a_run_has_recorded_it(settled: Project) -> None:
    settings = load_settings(settled.settings_file)
    edited = settings.model_copy(update={"vocab": settings.vocab.model_copy(update={"keep_percentile": 90.0})})
    found = planned(settled, "vocab+", edited)
    assert found["vocab"].reasons == ("`settings/vocab`: keep_percentile 95.0 → 90.0",)
    assert found["checkpoint"].reasons == ("follows vocab, packed_tokens",)
    assert planned(settled, "vocab")["vocab"].reasons == ()  # nothing was recorded


def test_posts_are_compared_with_the_export_as_it_is_now(settled: Project, project: Project) -> None:
    before = load_settings(settled.settings_file)
    assert planned(settled, "posts", before)["posts"].reasons == ()
    project.export_file.write_text(project.export_file.read_text() + "\n")
    edited = before.model_copy(
        update={"posts": before.posts.model_copy(update={"export": (str(project.export_file),)})}
    )
    (of_settings, of_files) = sorted(planned(settled, "posts", edited)["posts"].reasons, reverse=True)
    assert of_settings.startswith("`settings/posts`: export ")
    assert of_files.startswith("`posts_export` ")


def test_what_was_never_built_has_no_cost(project: Project) -> None:
    (one,) = planned(project, "posts").values()
    assert one == PlannedAsset("posts", ("never built",), None, None)
