"""`dagster dev` for hours with random edits, growing exports, kills, and a disk that fills up; then the check.

At the end the faults stop, one command line materializes everything, and a second project with the same settings and
the same export, which nothing has happened to, is materialized too: the warehouses must agree byte for byte. The seed
makes the order of events repeatable; what they meet depends on the machine's speed. Not a test: it is run by hand.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from booru_embed_dagster.warehouse.manifests import content_version, read_manifest
from tests.dagster.project_helpers import REPOSITORY, Project, make_project
from tests.faults.live_events import DG, EVENTS, QUIET_SECONDS, Live

DISK_BYTES = 1 << 29
SETTLE_SECONDS = 420
EVERYTHING = 'key:"*"'
LAUNCH = [DG, "launch", "--assets", EVERYTHING]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A tmpfs of `DISK_BYTES` on `folder` until the block ends; False where this user may not mount one."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    is_mounted = not subprocess.run(["mount", *options], capture_output=True, check=False).returncode
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def damaged(project: Project) -> list[str]:
    """The assets whose current version is not what its name says."""
    found = []
    for link in sorted(project.warehouse.root.glob("*/current")):
        product = project.warehouse.current(link.parent.name)
        if content_version(product.path, read_manifest(product.path).files) != product.version:
            found.append(str(product.path))
    return found


def leftovers(project: Project) -> list[str]:
    """What a warehouse holds beyond whole versions and its own names, and drafts."""
    found = []
    for home in sorted(path for path in project.warehouse.root.iterdir() if path.is_dir()):
        kept = {product.version for product in project.warehouse.versions(home.name)}
        known = {"current", ".drafts", ".history", ".lock", ".work", ".work-history"} | kept
        found += [str(path) for path in home.iterdir() if path.name not in known]
        inner = [path for name in (".drafts", ".work") for path in (home / name).glob("*")]
        found += [str(path) for path in inner if path.name != ".history"]
    return found


def materialize(project: Project, log: Path) -> int:
    """The exit code of the one command line that a person would give."""
    with log.open("ab") as output:
        return subprocess.run(
            LAUNCH,
            env={**os.environ, **project.environment()},
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


def differences(project: Project, clean: Project) -> tuple[int, list[str]]:
    """How many files define the versions of both projects, and what differs: versions, or bytes of these files."""
    num_files, found = 0, []
    for link in sorted(clean.warehouse.root.glob("*/current")):
        asset = link.parent.name
        ours, theirs = project.warehouse.current(asset), clean.warehouse.current(asset)
        if ours.version != theirs.version:
            found.append(f"{asset}: {ours.version}, clean {theirs.version}")
            continue
        names = sorted(read_manifest(theirs.path).files)
        num_files += len(names)
        found += [f"{asset}/{name}" for name in names if _bytes(ours.path / name) != _bytes(theirs.path / name)]
    return num_files, found


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def endure(live: Live, seconds: float) -> None:
    """Random events until `seconds` have passed; current versions are read back and hashed after each."""
    end = time.monotonic() + seconds
    names, weights = zip(*((event, event.weight) for event in EVENTS), strict=True)
    while time.monotonic() < end:
        live.ensure_dev()
        (event,) = live.random.choices(names, weights)
        if not event.needs_disk or live.has_disk:
            live.tell(event.name, event.act(live))
            live.done[event.name] += 1
        live.watch(live.random.uniform(*QUIET_SECONDS))
        if found := damaged(live.project):
            live.damaged += found
            live.tell("DAMAGED", ", ".join(found))
        live.tell("state", live.state())


def conclude(live: Live, out: Path) -> dict[str, object]:
    """What the end of `live` says: no run is left, and the warehouse is that of a clean project."""
    live.calm()
    deadline = time.monotonic() + SETTLE_SECONDS
    while live.unfinished() and time.monotonic() < deadline:
        live.ensure_dev()
        live.watch(5)
    left = live.unfinished()
    live.tell("calm", f"{len(left)} runs unfinished; {live.state()}")
    live.stop_dev()
    code = materialize(live.project, out / "materialize.log")
    live.tell("materialize", f"exit code {code}")
    clean = make_project(out / "clean")
    shutil.copy(live.project.settings_file, clean.settings_file)
    shutil.rmtree(clean.folder / "export")
    shutil.copytree(live.project.folder / "export", clean.folder / "export")
    clean_code = materialize(clean, out / "clean.log")
    num_files, found = differences(live.project, clean)
    result: dict[str, object] = {
        "exit_code": code,
        "clean_exit_code": clean_code,
        "files_compared": num_files,
        "differences": found,
        "damaged": live.damaged + damaged(live.project),
        "leftovers": leftovers(live.project),
        "runs_left_unfinished": [run.run_id for run in left],
        "events": dict(sorted(live.done.items())),
        "runs_by_status": dict(sorted(collections.Counter(run.status.value for run in live.runs()).items())),
        "killed_runs": len(live.ended),
        "killed_runs_ended_seconds": sorted(round(seconds, 1) for seconds, _ in live.ended),
        "killed_runs_ended_as": dict(collections.Counter(status for _, status in live.ended)),
        "killed_runs_not_ended": sorted(live.waiting),
        "materializations": live.num_materializations(),
        "posts": live.num_posts(),
    }
    result["is_same"] = not found and not result["damaged"] and code == clean_code == 0
    return result


def main() -> None:
    """Runs for the minutes that are asked for; prints a line for each event, and the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--out", type=Path, help="a new folder for the logs and the result; default: a temporary one")
    options = parser.parse_args()
    out: Path = (options.out or Path(tempfile.mkdtemp(prefix="live-daemon-"))).absolute()
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with small_disk(out / "disk") as has_disk:
        project = make_project(out / "disk" / "project")
        live = Live(project, Random(options.seed), out, has_disk)
        live.write_settings()
        disk = f"a tmpfs of {DISK_BYTES:,} bytes" if has_disk else "no disk of its own: it is never filled"
        live.tell("begin", f"seed {options.seed}, {options.minutes:g} minutes, {disk}")
        try:
            live.tell("materialize", f"exit code {materialize(project, out / 'materialize.log')}")
            endure(live, options.minutes * 60 - (time.monotonic() - start))
            result = conclude(live, out)
        finally:
            live.kill_all()
            live.close()
    result |= {"minutes": round((time.monotonic() - start) / 60, 1), "seed": options.seed}
    text = json.dumps(result, indent=2)
    (out / "result.json").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    sys.exit(not result["is_same"] or bool(result["runs_left_unfinished"]))


if __name__ == "__main__":
    main()
