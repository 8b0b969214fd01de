"""`prune` removes what nothing needs, says how much that is, and says the same beforehand."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest

from booru_embed_core.settings import SETTINGS_VARIABLE
from booru_embed_dagster.definitions import defs
from booru_embed_dagster.warehouse.warehouse import DRAFTS, Warehouse, lock_folder
from tests.dagster.project_helpers import Project

DEAD, NEWEST, OLD = "d" * 32, "1" * 16, "0" * 16


def fill(warehouse: Warehouse) -> None:
    """Five versions, a dead draft, two states that interrupted trainings left."""
    for number in range(5):
        with Warehouse(warehouse.root, keep_versions=99).new_version("vocab") as draft:
            (draft.path / "tags.txt").write_text(str(number) * 100)
    dead = warehouse.root / "vocab" / DRAFTS / DEAD
    dead.mkdir(parents=True)
    (dead / "half").write_bytes(b"x" * 1000)
    for age, name in enumerate((NEWEST, OLD)):
        state = warehouse.work_folder("checkpoint", name)
        (state / "state").write_bytes(b"x" * 10_000)
        os.utime(state, (1e9 - age, 1e9 - age))
    (warehouse.root / "checkpoint/.work-history").unlink()  # as in an older build, which went by the time


def below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.name != ".lock"}


def launch(project: Project, *, dry_run: bool) -> dict[str, object]:
    config = {"ops": {"remove_surplus": {"config": {"dry_run": dry_run}}}}
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv(SETTINGS_VARIABLE, str(project.settings_file))
        result = defs.get_job_def("prune").execute_in_process(run_config=config, instance=instance)
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_surplus_goes_and_what_is_in_use_stays(project: Project) -> None:
    warehouse = project.warehouse
    fill(warehouse)
    before = below(warehouse.root)
    said = launch(project, dry_run=True)
    assert below(warehouse.root) == before
    assert (said["num_folders"], said["freed_bytes"]) == (4, 0)

    done = launch(project, dry_run=False)
    assert done["num_folders"] == 4
    assert done["freed_bytes"] == said["surplus_bytes"]
    assert len(warehouse.versions("vocab")) == 3
    assert warehouse.current("vocab").version == warehouse.versions("vocab")[0].version
    left = below(warehouse.root)
    assert not any(DEAD in name or OLD in name for name in left)
    assert f"checkpoint/.work/{NEWEST}/state" in left
    assert launch(project, dry_run=False)["num_folders"] == 0


def test_a_run_that_is_writing_keeps_its_draft_and_all_states(project: Project) -> None:
    warehouse = project.warehouse
    fill(warehouse)
    with warehouse.new_version("checkpoint") as draft:
        (draft.path / "weights").write_text("x")
        removed = warehouse.abandoned(remove=True)
        assert [folder.name for folder in removed] == [DEAD]
        assert (draft.path / "weights").exists()
    with lock_folder(warehouse.root / "checkpoint" / ".work" / OLD):
        assert warehouse.abandoned(remove=True) == {}
    assert [folder.name for folder in warehouse.abandoned(remove=True)] == [OLD]


def test_a_warehouse_that_is_not_there_needs_no_pruning(project: Project) -> None:
    assert launch(project, dry_run=False)["num_folders"] == 0
