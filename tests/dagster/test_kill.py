"""Runs of the data stages killed at random moments: a whole version stays current, and the next run clears up."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import dagster as dg
import pytest

from booru_embed_dagster.warehouse.manifests import content_version, read_manifest
from tests.dagster.project_helpers import REPOSITORY, Project, versions
from tests.dagster.test_assets import DATA_ASSETS

Built = tuple[Project, dg.ExecuteInProcessResult]
NUM_KILLS = 4

RUN = """
import os, signal, sys, threading, time
from pathlib import Path
from tests.dagster.project_helpers import Project

project, selection, delay = Project(Path(sys.argv[1])), sys.argv[2], float(sys.argv[3])
if delay:
    killer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    killer.daemon = True
    killer.start()
start = time.monotonic()
assert project.materialize(selection).success
print(time.monotonic() - start)
"""


def run(project: Project, delay: float = 0) -> subprocess.CompletedProcess[str]:
    """A run of the data stages in a process of its own, killed after `delay` seconds unless it is 0."""
    return subprocess.run(
        [sys.executable, "-c", RUN, str(project.folder), ",".join(DATA_ASSETS), str(delay)],
        env={"PYTHONPATH": f"{REPOSITORY}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


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
    done = run(project)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, random, num_killed = float(done.stdout), Random(7), 0
    for turn in range(1, NUM_KILLS + 1):
        grow(project, turn)
        ended = run(project, seconds * (turn - random.random()) / NUM_KILLS)
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr[-2000:]
        num_killed += ended.returncode != 0
        for asset in DATA_ASSETS:
            product = project.warehouse.current(asset)
            for version in {product, *project.warehouse.versions(asset)}:
                assert content_version(version.path, read_manifest(version.path).files) == version.version
    assert num_killed > NUM_KILLS // 2

    made = versions(project.materialize(",".join(DATA_ASSETS)))
    for asset in DATA_ASSETS:
        home = project.warehouse.root / asset
        assert list((home / ".drafts").iterdir()) == []
        kept = {product.version for product in project.warehouse.versions(asset)}
        known = {"current", ".drafts", ".history"} | kept
        assert {path.name for path in home.iterdir()} == known
    assert {path.name for path in project.folder.iterdir()} == {path.name for path in built[0].folder.iterdir()}

    shutil.rmtree(project.warehouse.root)
    assert versions(project.materialize(",".join(DATA_ASSETS))) == made
