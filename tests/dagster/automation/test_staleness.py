"""Which assets are stale, ready and due, on a small graph whose events are written by hand."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from booru_embed_core.settings import OBSERVED_SECTIONS, Settings, VocabSettings, section_version
from booru_embed_dagster.automation.observation import DATA_VERSION_TAG, recorded_version
from booru_embed_dagster.automation.provenance import CODE_VERSION_TAG, input_tags
from booru_embed_dagster.automation.staleness import Lineage, made_from

ALWAYS = dg.AutomationCondition.eager()
SOURCES = ("file", "knob")
INPUTS = {"top": ("file", "knob"), "middle": ("top",), "bottom": ("middle", "knob"), "on_demand": ("top",)}


def define(name: str) -> dg.AssetsDefinition:
    condition = None if name == "on_demand" else ALWAYS

    @dg.asset(name=name, deps=INPUTS[name], code_version="1", automation_condition=condition)
    def made() -> None:
        raise NotImplementedError

    return made


GRAPH = dg.Definitions(assets=[*map(dg.AssetSpec, SOURCES), *map(define, INPUTS)]).get_repository_def().asset_graph


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def key(name: str) -> dg.AssetKey:
    return dg.AssetKey(name)


def observe(instance: dg.DagsterInstance, name: str, version: str) -> None:
    tags = {DATA_VERSION_TAG: version, "dagster/data_version_is_user_provided": "true"}
    instance.report_runless_asset_event(dg.AssetObservation(name.split("/"), tags=tags))


def make(instance: dg.DagsterInstance, name: str, version: str, code_version: str = "1", **other: str) -> None:
    """Records `name` as made now, from the current versions of its inputs or from `other` ones."""
    versions = {parent: other.get(parent) or Lineage(instance, GRAPH).version(key(parent)) for parent in INPUTS[name]}
    inputs = input_tags({parent: found for parent, found in versions.items() if found})
    tags = {DATA_VERSION_TAG: version, CODE_VERSION_TAG: code_version, **inputs}
    instance.report_runless_asset_event(dg.AssetMaterialization(name, tags=tags))


def make_all(instance: dg.DagsterInstance) -> None:
    for name in SOURCES:
        observe(instance, name, f"{name} 1")
    for name in INPUTS:
        make(instance, name, f"{name} 1")


def stale(instance: dg.DagsterInstance) -> set[str]:
    lineage = Lineage(instance, GRAPH)
    return {name for name in INPUTS if lineage.is_stale(key(name))}


def due(instance: dg.DagsterInstance) -> list[str]:
    return [found.to_user_string() for found in Lineage(instance, GRAPH).due()]


def test_an_empty_instance_knows_no_version(instance: dg.DagsterInstance) -> None:
    lineage = Lineage(instance, GRAPH)
    assert [lineage.version(key(name)) for name in ("file", "top")] == [None, None]
    assert made_from(instance, key("top")) == {}
    assert stale(instance) == set(INPUTS)


@pytest.mark.parametrize("unobserved", SOURCES)
def test_an_asset_is_not_ready_before_each_of_its_sources_was_observed(
    instance: dg.DagsterInstance, unobserved: str
) -> None:
    (other,) = set(SOURCES) - {unobserved}
    observe(instance, other, "1")
    assert not Lineage(instance, GRAPH).is_ready(key("top"))
    assert due(instance) == []
    observe(instance, unobserved, "1")
    assert Lineage(instance, GRAPH).is_ready(key("top"))
    assert due(instance) == ["top"]


def test_the_versions_of_inputs_are_read_back(instance: dg.DagsterInstance) -> None:
    make_all(instance)
    assert made_from(instance, key("top")) == {"file": "file 1", "knob": "knob 1"}
    assert Lineage(instance, GRAPH).version(key("top")) == "top 1"
    assert Lineage(instance, GRAPH).wanted(key("middle")) == {
        CODE_VERSION_TAG: "1",
        "dagster/input_data_version/top": "top 1",
    }
    assert stale(instance) == set()
    assert due(instance) == []


def test_what_waits_for_a_stale_asset_is_not_due(instance: dg.DagsterInstance) -> None:
    make_all(instance)
    observe(instance, "knob", "knob 2")
    assert stale(instance) == {"top", "bottom"}
    assert due(instance) == ["top"]
    make(instance, "top", "top 1")  # the same result: nothing below it is stale
    assert due(instance) == ["bottom"]
    make(instance, "top", "top 2")
    assert stale(instance) == {"middle", "bottom", "on_demand"}
    assert due(instance) == ["middle"]


def test_an_asset_without_a_condition_is_made_on_demand_alone(instance: dg.DagsterInstance) -> None:
    make_all(instance)
    make(instance, "on_demand", "on_demand 1", top="another")
    assert stale(instance) == {"on_demand"}
    assert due(instance) == []


def test_other_code_makes_stale(instance: dg.DagsterInstance) -> None:
    make_all(instance)
    make(instance, "middle", "middle 1", code_version="0")
    assert stale(instance) == {"middle"}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"middle"}, {"middle", "bottom"}),
        ({"bottom"}, {"bottom"}),
        ({"top", "bottom"}, set(INPUTS)),
        (None, set(INPUTS)),
    ],
)
@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
)
def test_a_run_makes_what_it_selects_and_holds_what_is_below(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, selection: set[str] | None, expected: set[str]
) -> None:
    keys = None if selection is None else frozenset(map(key, selection))
    instance.add_run(dg.DagsterRun(job_name="any", status=status, asset_selection=keys))
    lineage = Lineage(instance, GRAPH)
    assert {name for name in INPUTS if lineage.is_being_made(key(name))} == expected


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
def test_a_run_that_has_ended_makes_nothing(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> None:
    instance.add_run(dg.DagsterRun(job_name="any", status=status, asset_selection=frozenset({key("top")})))
    assert not any(Lineage(instance, GRAPH).is_being_made(key(name)) for name in INPUTS)


def test_settings_are_seen_when_every_section_is_recorded(instance: dg.DagsterInstance) -> None:
    sections = [dg.AssetSpec(["settings", section]) for section in OBSERVED_SECTIONS]
    graph = dg.Definitions(assets=sections).get_repository_def().asset_graph
    settings = Settings()
    for section in OBSERVED_SECTIONS:
        assert not Lineage(instance, graph).has_seen(settings)
        observe(instance, f"settings/{section}", section_version(getattr(settings, section)))
    assert recorded_version(instance, dg.AssetKey(["settings", "vocab"])) == section_version(settings.vocab)
    assert Lineage(instance, graph).has_seen(settings)
    edited = settings.model_copy(update={"vocab": VocabSettings(keep_percentile=12)})
    assert not Lineage(instance, graph).has_seen(edited)
