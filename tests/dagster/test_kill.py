"""Runs of the data stages killed at random moments: a whole version stays current, and the next run clears up."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from multiprocessing.queues import SimpleQueue as Queue
from pathlib import Path
from random import Random

import dagster as dg
import pytest

from booru_embed_dagster.warehouse.manifests import content_version, read_manifest
from tests.dagster.asset_helpers import DATA_ASSETS
from tests.dagster.project_helpers import Project, versions

Built = tuple[Project, dg.ExecuteInProcessResult]
NUM_KILLS = 4


def materialize(folder: Path, selection: str, delay: float, seconds: Queue[float]) -> None:
    """A run of `selection` that is killed after `delay` seconds, unless it is 0; puts how long it took."""
    if delay:
        killer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
    start = time.monotonic()
    assert Project(folder).materialize(selection).success
    seconds.put(time.monotonic() - start)


def run(project: Project, delay: float = 0) -> tuple[int | None, float]:
    """The exit code of a run of the data stages in a process of its own, and how long it took if it was not killed."""
    context = multiprocessing.get_context("forkserver")  # each process begins with what the first one has imported
    context.set_forkserver_preload(["tests.dagster.project_helpers"])
    seconds: Queue[float] = context.SimpleQueue()
    process = context.Process(target=materialize, args=(project.folder, ",".join(DATA_ASSETS), delay, seconds))
    process.start()
    process.join()
    return process.exitcode, 0.0 if process.exitcode else seconds.get()


def grow(project: Project, turn: int) -> None:
    """One more post, so that every stage has something new to write."""
    line = project.export_file.read_text(encoding="utf-8").splitlines()[1 + turn]
    with project.export_file.open("a", encoding="utf-8", newline="") as out:
        out.write(line.replace(line.partition(",")[0], str(10**9 + turn), 1) + "\n")


@pytest.mark.slow
def test_a_run_killed_anywhere_leaves_whole_versions_and_nothing_that_the_next_run_does_not_clear(
    built: Built, tmp_path: Path
) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    grow(project, 0)
    code, seconds = run(project)
    assert code == 0
    random, num_killed = Random(7), 0
    for turn in range(1, 4 * NUM_KILLS):  # a run that gets faster ends before its kill
        grow(project, turn)
        code, _ = run(project, seconds * (turn % NUM_KILLS + random.random()) / NUM_KILLS)
        assert code in (0, -signal.SIGKILL)
        num_killed += code != 0
        for asset in DATA_ASSETS:
            product = project.warehouse.current(asset)
            for version in {product, *project.warehouse.versions(asset)}:
                assert content_version(version.path, read_manifest(version.path).files) == version.version
        if num_killed == NUM_KILLS:
            break
    assert num_killed == NUM_KILLS

    made = versions(project.materialize(",".join(DATA_ASSETS)))
    for asset in DATA_ASSETS:
        home = project.warehouse.root / asset
        assert list((home / ".drafts").iterdir()) == []
        kept = {product.version for product in project.warehouse.versions(asset)}
        known = {"current", ".drafts", ".history", ".lock"} | kept
        assert {path.name for path in home.iterdir()} == known
    assert {path.name for path in project.folder.iterdir()} == {path.name for path in built[0].folder.iterdir()}

    shutil.rmtree(project.warehouse.root)
    assert versions(project.materialize(",".join(DATA_ASSETS))) == made
