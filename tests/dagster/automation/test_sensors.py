"""What each edit rebuilds and what it leaves alone: the matrix that docs/concepts/automation.md shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from booru_embed_core.settings import SettingsError
from booru_embed_dagster.assets import tags, tokens
from booru_embed_dagster.automation.observation import recorded_version, settings_key
from booru_embed_dagster.automation.sensors import observe_export_files, observe_settings, rebuild_what_changed
from booru_embed_dagster.definitions import defs
from tests.dagster.project_helpers import REPOSITORY, Project
from tests.dagster.world_helpers import World

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("light")]
PAGE = REPOSITORY / "docs" / "concepts" / "automation.md"
UPDATE_VARIABLE = "BOORU_EMBED_UPDATE_DOCS"
MODEL = [["caption_lengths", "checkpoint"], ["evaluation", "post_embeddings", "tag_embeddings"]]
BELOW_VOCAB = [["packed_tokens"], *MODEL]
BELOW_POSTS = [["tag_frequencies"], ["vocab", "vocab_cost"], *BELOW_VOCAB]
CHECKPOINT = [["checkpoint"], ["evaluation", "post_embeddings", "tag_embeddings"]]


@pytest.fixture
def world(settled: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A project in which everything is fresh, to be written to."""
    project = settled.copy_to(tmp_path / "copy")
    for name, value in project.environment().items():
        monkeypatch.setenv(name, value)
    with project.instance() as instance:
        yield World(project, instance)


def append_post(project: Project, *, is_malformed: bool = False) -> None:
    lines = project.export_file.read_text(encoding="utf-8").splitlines(keepends=True)
    cells = lines[-1].split(",", 1)
    new = f"{int(cells[0]) + 1},{cells[1]}"
    more = ["no post at all\n"] * len(lines) if is_malformed else [new]
    project.export_file.write_text("".join([*lines, *more]), encoding="utf-8")


def same_vocabulary(world: World) -> None:
    world.project.set(keep_percentile=95.0001, num_epochs=1)


def by_hand(*names: str) -> Callable[[World], None]:
    def run(world: World) -> None:
        assert world.run(names).success

    return run


def new_percentile(world: World) -> None:
    world.project.set(keep_percentile=90, num_epochs=1)


def back(world: World) -> None:
    world.project.set(keep_percentile=95, num_epochs=1)


def observe_and_tick(world: World) -> None:
    """The first asset alone is rebuilt before the next edit comes."""
    world.observe()
    (name,) = world.tick()
    world.ran.append([name])
    assert world.run([name]).success


def settle(world: World) -> None:
    world.settle()


def touch(world: World) -> None:
    before = world.project.export_file.stat().st_mtime
    world.project.export_file.write_bytes(world.project.export_file.read_bytes())
    assert world.project.export_file.stat().st_mtime > before


def bump(*names: str) -> Callable[[World], None]:
    def edit(spec: dg.AssetSpec) -> dg.AssetSpec:
        is_meant = spec.key.to_user_string() in names
        return spec.replace_attributes(code_version="bumped") if is_meant else spec

    def bumped(world: World) -> None:
        assets = dg.map_asset_specs(edit, defs.assets or [])  # type: ignore[arg-type]
        world.defs = dg.Definitions(
            assets=assets, asset_checks=defs.asset_checks, resources=defs.resources, executor=defs.executor
        )

    return bumped


SITUATIONS: dict[str, tuple[list[Callable[[World], None]], list[list[str]]]] = {
    "nothing is edited": ([], []),
    "a new percentile": ([new_percentile], [["vocab"], *BELOW_VOCAB]),
    "a new percentile that keeps the same tags": ([same_vocabulary], [["vocab"]]),
    "more epochs, or another learning rate": ([lambda world: world.project.set(num_epochs=2)], CHECKPOINT),
    "one more post in the export": ([lambda world: append_post(world.project)], [["posts"], *BELOW_POSTS]),
    "the export rewritten with the same content": ([touch], []),
    "a new percentile and more epochs at once": (
        [lambda world: world.project.set(keep_percentile=90, num_epochs=2)],
        [["vocab"], *BELOW_VOCAB],
    ),
    "a new percentile, reverted before anything ran": ([new_percentile, World.observe, back], []),
    "a new percentile, reverted after only vocab was built": (
        [new_percentile, observe_and_tick, back],
        [["vocab"]] * 2,
    ),
    "a new percentile, reverted after everything was built": (
        [new_percentile, settle, back],
        [["vocab"], *BELOW_VOCAB] * 2,
    ),
    "a new percentile, then vocab by hand": ([new_percentile, by_hand("vocab")], BELOW_VOCAB),
    "a new percentile, then vocab+ by hand": (
        [
            new_percentile,
            by_hand(
                "vocab",
                "packed_tokens",
                "caption_lengths",
                "checkpoint",
                "evaluation",
                "post_embeddings",
                "tag_embeddings",
            ),
        ],
        [],
    ),
    "a new percentile, then checkpoint by hand on the old tokens": (
        [new_percentile, World.observe, by_hand("checkpoint")],
        [["vocab"], *BELOW_VOCAB],
    ),
    "nothing is edited, posts by hand": ([by_hand("posts")], []),
    "a new code_version of vocab_cost": ([bump("vocab_cost")], [["vocab_cost"]]),
    "a new code_version of packed_tokens with the same bytes": ([bump("packed_tokens")], [["packed_tokens"]]),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_exactly_what_changed_is_rebuilt(world: World, situation: str) -> None:
    edits, expected = SITUATIONS[situation]
    for edit in edits:
        edit(world)
    assert world.settle() == expected
    assert not world.failed
    assert world.settle() == expected  # and nothing more later


def test_the_docs_show_the_matrix() -> None:
    rows = [f"| {situation} | {_shown(expected)} |" for situation, (_, expected) in SITUATIONS.items()]
    begin, end = "<!-- matrix -->\n", "<!-- end of the matrix -->"
    head, rest = PAGE.read_text(encoding="utf-8").split(begin)
    tail = rest.split(end)[1]
    text = head + begin + "\n".join(["| edit | what is rebuilt, in order |", "|---|---|", *rows, ""]) + end + tail
    if os.environ.get(UPDATE_VARIABLE):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, f"run this test with {UPDATE_VARIABLE}=1"


def _shown(ticks: list[list[str]]) -> str:
    return " → ".join(" and ".join(f"`{name}`" for name in names) for names in ticks) or "nothing"


def test_a_failure_stops_what_is_below_and_is_not_tried_again_until_it_is_mended(world: World) -> None:
    append_post(world.project, is_malformed=True)
    assert world.settle() == [["posts"]]
    assert world.failed == ["posts"]
    for _ in range(3):
        assert world.settle() == [["posts"]]
    lines = world.project.export_file.read_text(encoding="utf-8").splitlines(keepends=True)
    lines = [line for line in lines if line != "no post at all\n"]
    world.project.export_file.write_text("".join(lines), encoding="utf-8")
    assert world.settle() == [["posts"]]  # as it was: nothing is stale
    append_post(world.project)
    world.observe()
    assert world.tick() == ["posts"]
    assert world.run(["posts"]).success
    assert world.tick() == BELOW_POSTS[0]


def test_a_failure_in_the_middle_leaves_what_is_below_as_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")  # what cannot be had here

    new_percentile(world)
    with monkeypatch.context() as patch:
        patch.setattr(tokens, "encode_posts", full)
        world.settle()
    assert (world.settle(), world.failed) == ([["vocab"], ["packed_tokens"]], ["packed_tokens"])
    assert world.run(["packed_tokens"]).success  # the cause was outside: a person says when it is mended
    assert world.settle() == [["vocab"], ["packed_tokens"], *MODEL]


def test_the_same_edit_is_tried_again_after_it_was_taken_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    good = world.project.settings_file.read_text(encoding="utf-8")
    bad = good.replace('device = "cpu"', 'device = "cuda"')
    assert bad != good
    for text, expected in ((bad, [["checkpoint"]]), (good, [["checkpoint"]]), (bad, [["checkpoint"]] * 2)):
        world.project.settings_file.write_text(text, encoding="utf-8")
        assert world.settle() == expected
    assert world.failed == ["checkpoint"] * 2


def test_with_broken_settings_nothing_runs_and_the_sensor_says_why(world: World) -> None:
    new_percentile(world)
    world.observe()
    world.project.settings_file.write_text("[vocab]\nkeep_percentil = 90\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="keep_percentil"):
        observe_settings(dg.build_sensor_context(instance=world.instance))
    assert world.tick() == []
    new_percentile(world)
    world.observe()
    assert world.tick() == ["vocab"]


def test_an_edit_waits_until_it_is_recorded(world: World) -> None:
    new_percentile(world)
    assert world.tick() == []
    world.project.set(keep_percentile=90, num_epochs=3)
    world.observe()
    world.project.set(keep_percentile=80, num_epochs=3)  # nothing is made from a mixture of two edits
    assert world.tick() == []


def test_an_edit_during_a_run_is_not_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sensor records the second edit while the run works with the first: what was used is what is remembered."""
    new_percentile(world)
    world.observe()
    real = tags.build_vocab

    def edited_meanwhile(*arguments: object) -> object:
        world.project.set(keep_percentile=80, num_epochs=1)
        world.observe()
        return real(*arguments)  # type: ignore[arg-type]

    assert world.tick() == ["vocab"]
    with monkeypatch.context() as patch:
        patch.setattr(tags, "build_vocab", edited_meanwhile)
        assert world.run(["vocab"]).success
    assert world.tick() == ["vocab"]
    assert world.run(["vocab"]).success
    assert world.tick() == ["packed_tokens"]


def test_nothing_below_a_failed_check_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from booru_embed_core.tags.vocab import Vocab

    new_percentile(world)
    with monkeypatch.context() as patch:
        patch.setattr(Vocab, "num_tags", 0)
        world.observe()
        assert world.tick() == ["vocab"]
        assert not world.run(["vocab"]).success
    assert world.settle() == []
    assert world.run(["vocab"]).success
    assert world.tick() == ["packed_tokens"]


@pytest.mark.parametrize(("busy", "expected"), [("vocab", []), ("posts", []), ("evaluation", ["vocab"])])
def test_what_a_run_is_making_is_not_requested(world: World, busy: str, expected: list[str]) -> None:
    run = dg.DagsterRun(
        job_name="__ASSET_JOB", status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset({dg.AssetKey(busy)})
    )
    world.instance.add_run(run)
    new_percentile(world)
    world.observe()
    assert world.tick() == expected


def test_a_run_records_what_it_reads(world: World) -> None:
    new_percentile(world)
    before = recorded_version(world.instance, settings_key("vocab"))
    assert world.run(["tag_frequencies"]).success
    assert recorded_version(world.instance, settings_key("vocab")) not in (before, None)


def test_observing_says_when_nothing_has_changed(world: World) -> None:
    for sensor in (observe_settings, observe_export_files):
        assert isinstance(sensor(dg.build_sensor_context(instance=world.instance)), dg.SkipReason)


def test_a_file_that_is_being_written_is_waited_for(world: World) -> None:
    append_post(world.project)
    os.utime(world.project.export_file, (time.time(), time.time()))
    reason = observe_export_files(dg.build_sensor_context(instance=world.instance))
    assert isinstance(reason, dg.SkipReason)
    assert "being written" in str(reason.skip_message)


def test_an_export_that_is_missing_is_an_error_of_the_sensor(world: World) -> None:
    world.project.export_file.unlink()
    with pytest.raises(ValueError, match=r"export/\*.csv"):
        observe_export_files(dg.build_sensor_context(instance=world.instance))


def test_the_automation_is_off_and_the_observing_is_on() -> None:
    assert rebuild_what_changed.default_status is dg.DefaultSensorStatus.STOPPED
    for sensor in (observe_settings, observe_export_files):
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
