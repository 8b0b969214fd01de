"""Runs every stage once for each call that writes, which fails or in which the process is killed.

``python -m tests.faults.campaign FOLDER`` needs the environment of `injector.environment`: it forks a child for each
run from one process that has imported everything. Prints a JSON line for each fault, and at the end the counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.faults import injector, stages
from tests.faults.injector import Call, How
from tests.faults.order import broken_promises
from tests.faults.stages import ASSETS, STAGES, FailedInOneLineError, Stage

Tree = dict[str, str]
"""By relative path: the hash of a file, the target of a link, the whole lines of a history, or nothing for a folder."""
VOLATILE = ("version.json", "training_log.jsonl", "tensorboard")
"""Files and folders with times: that they are there is all that can be said."""
HISTORIES = (".history", ".work-history")
HIDDEN = (".drafts", ".work", ".lock", *HISTORIES)
"""In an asset's folder: what readers do not look at."""
FAULTS = (How.FULL, How.ONCE, How.KILL)


@dataclass(frozen=True)
class Ran:
    """How a run in a child ended: ``done``, ``failed`` with its line, ``crashed`` with a stack trace, or ``killed``."""

    end: str
    text: str = ""


@dataclass(frozen=True)
class Fault:
    """One fault, and what was wrong after it."""

    stage: str
    how: str
    n: int
    call: str
    end: str
    line: str
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Clean:
    """A stage without a fault: its calls, and the trees before and after it."""

    folder: Path
    calls: list[Call]
    before: Tree
    after: Tree


def tree_of(folder: Path) -> Tree:
    """The whole content of `folder`, without the folder for temporary files."""
    found: Tree = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            key = path.relative_to(folder).as_posix()
            if path.is_symlink():
                found[key] = f"-> {os.readlink(path)}"
            elif name in HISTORIES:
                found[key] = " ".join(re.findall(r"^[0-9a-f]{16}$", path.read_text(encoding="utf-8"), re.MULTILINE))
            elif name in VOLATILE:
                found[key] = "has times"
            elif key != "tmp":
                found[key] = "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        folders[:] = [name for name in folders if name not in VOLATILE and (name != "tmp" or Path(parent) != folder)]
    return found


def is_file_of_readers(key: str, content: str) -> bool:
    """Whether a key of a tree is a file that readers, or the next run, look at."""
    is_hidden = not set(key.split("/")).isdisjoint({".drafts", ".lock"})
    return bool(content) and not content.startswith("-> ") and not is_hidden


def in_child(action: Callable[[], None]) -> Ran:
    """How `action` ended in a child of this process."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            action()
            ran = Ran("done")
        except FailedInOneLineError as error:
            ran = Ran("failed", str(error))
        except BaseException:  # noqa: BLE001  whatever it is, the parent tells of it
            ran = Ran("crashed", traceback.format_exc())
        injector.disarm()
        os.write(writing, pickle.dumps(ran))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        content = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return Ran("killed" if name == "SIGKILL" else "crashed", name)
    ran = pickle.loads(content)
    assert isinstance(ran, Ran)
    return ran


def run_stage(stage: Stage, folder: Path, how: How | None = None, n: int = 0, log: Path | None = None) -> Ran:
    """How `stage` ended in `folder` with that fault."""
    log_fd = -1 if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def action() -> None:
        stages.use_folder(folder)
        stages.lighten()
        if how is not None:
            injector.arm(folder, how, n, log_fd)
        stage.run(folder)

    try:
        return in_child(action)
    finally:
        if log_fd >= 0:
            os.close(log_fd)


class Campaign:
    """The stages in a folder `work`, prepared as they are asked for."""

    def __init__(self, work: Path, names: list[str]) -> None:
        self.work = work
        self.names = names
        self.clean: dict[str, Clean] = {}
        self.promises: dict[str, list[str]] = {}
        """By stage, what a power cut may undo."""

    def prepare(self) -> None:
        """Makes the folder of each stage: an asset's project has newer inputs than its product was made from."""
        project, states = self.work / "project", self.work / "states"
        stages.make_project(project)
        for stage in ASSETS:
            self._must(stage, project)
        stages.grow_project(project)
        wanted = [stage.name for stage in ASSETS if stage.name in self.names]
        for stage in ASSETS:
            if stage.name in self.names:
                shutil.copytree(project, states / stage.name, symlinks=True)
            if stage.name in wanted[-1:] and not set(self.names) - set(wanted):
                break
            self._must(stage, project)
        shutil.copytree(project / "warehouse", self.work / "warehouse", symlinks=True)
        stages.make_command_folder(states / stages.COMMAND_FOLDER, project)
        for name in self.names:
            self.clean[name] = self._clean(STAGES[name])

    def _must(self, stage: Stage, folder: Path) -> list[Call]:
        """The calls of a run that succeeds; notes what a power cut in it or after it may undo."""
        log, before = self.work / "calls.log", tree_of(folder)
        ran = run_stage(stage, folder, How.COUNT, log=log)
        assert ran.end == "done", (stage.name, ran)
        calls, after = injector.calls_in(log), tree_of(folder)
        made = [
            key for key, content in after.items() if before.get(key) != content and is_file_of_readers(key, content)
        ]
        self.promises.setdefault(stage.name, []).extend(broken_promises(calls, folder, made))
        return calls

    def _clean(self, stage: Stage) -> Clean:
        folder = self.work / "states" / (stages.COMMAND_FOLDER if stage.output else stage.name)
        copy = self.copy_of(folder)
        calls = self._must(stage, copy)
        before, after = tree_of(folder), tree_of(copy)
        assert before != after, f"{stage.name} wrote nothing"
        return Clean(folder, calls, before, after)

    def copy_of(self, folder: Path) -> Path:
        """A copy of a stage's folder beside the warehouse that commands read, always at the same path."""
        copy = self.work / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, symlinks=True)
        return copy

    def faults(self, name: str) -> list[tuple[How, int]]:
        """All faults of a stage; a full disk refuses some calls only."""
        calls = self.clean[name].calls
        return [
            (how, n)
            for n, call in enumerate(calls, start=1)
            for how in FAULTS
            if how is not How.FULL or call.takes_room
        ]

    def try_fault(self, name: str, how: How, n: int) -> Fault:
        """What one fault leaves, and what the next run makes of it."""
        stage, clean = STAGES[name], self.clean[name]
        folder = self.copy_of(clean.folder)
        ran = run_stage(stage, folder, how, n)
        now = tree_of(folder)
        problems = [f"lost: {problem}" for problem in lost(stage, clean, now)]
        is_new = new_is_there(stage, clean, now)
        if ran.end == "crashed":
            problems.append(f"no line: {ran.text}")
        elif ran.end == "failed" and ("\n" in ran.text or str(folder) not in ran.text):
            problems.append(f"the line names no folder: {ran.text}")
        elif ran.end == "done" and not is_new:
            problems.append("says that it succeeded, and did not")
        if stage.output and is_new:
            path = folder / stage.output
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        again = run_stage(stage, folder)
        if again.end != "done":
            problems.append(f"the next run: {again.end} {again.text}")
        problems += [f"after the next run: {one}" for one in differences(stage, tree_of(folder), clean.after)]
        call = clean.calls[n - 1]
        shown = f"{call.name} {call.path.name}"
        return Fault(name, how.name.lower(), n, shown, ran.end, ran.text.strip()[-300:], problems)


def differences(stage: Stage, now: Tree, wanted: Tree) -> Iterator[str]:
    """What `now` has otherwise than `wanted`. Pruning may leave drafts of other assets, whose next runs remove them."""
    for key in sorted(now.keys() | wanted.keys()):
        if "/.drafts/" in key and not key.startswith(f"warehouse/{stage.name}/"):
            continue
        if key not in wanted:
            yield f"{key} is left over"
        elif key not in now:
            yield f"{key} is missing"
        elif now[key] != wanted[key]:
            yield f"{key} is another"


def unit_of(stage: Stage, key: str) -> str | None:
    """The unit of a path, which is whole or not at all: a version, or a command's output. None if readers see none."""
    parts = key.split("/")
    if stage.output:
        return stage.output if parts[0] == stage.output else key if len(parts) == 1 else None
    if parts[0] != "warehouse" or len(parts) < 3:
        return key
    return None if parts[2] in HIDDEN else "/".join(parts[:3])


def units(stage: Stage, tree: Tree) -> dict[str, Tree]:
    """The units of a tree."""
    found: dict[str, Tree] = {}
    for key, content in tree.items():
        unit = unit_of(stage, key)
        if unit is not None:
            found.setdefault(unit, {})[key] = content
    return found


def lost(stage: Stage, clean: Clean, now: Tree) -> Iterator[str]:
    """What is neither as it was nor as it should have become."""
    before, after = (units(stage, tree) for tree in (clean.before, clean.after))
    found = units(stage, now)
    for unit, content in found.items():
        known = [tree[unit] for tree in (before, after) if unit in tree]
        if known and content not in known:
            yield f"{unit} is half of something: {sorted(content.items() ^ known[0].items())[:4]}"
        elif not known and not stage.output:
            yield f"{unit} is neither old nor new"
    for unit in before.keys() & after.keys() - found.keys():
        yield f"{unit} is gone"
    if not stage.output:
        link = f"warehouse/{stage.name}/current"
        version = now.get(link, "").removeprefix("-> ")
        if f"warehouse/{stage.name}/{version}" not in found:
            yield f"{link} leads nowhere"


def new_is_there(stage: Stage, clean: Clean, now: Tree) -> bool:
    """Whether readers find the new output."""
    if not stage.output:
        link = f"warehouse/{stage.name}/current"
        return now.get(link) == clean.after[link]
    found, wanted = (units(stage, tree).get(stage.output) for tree in (now, clean.after))
    return found == wanted


def say(value: dict[str, Any]) -> None:
    """Prints a line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Tries all faults, or a sample of each stage's."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign")
    parser.add_argument("work", type=Path, help="an empty folder")
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES), metavar="STAGE")
    parser.add_argument("--sample", type=int, help="faults of each stage; all by default")
    parser.add_argument("--seed", type=int, default=18)
    options = parser.parse_args()
    stages.preload(options.stages)
    campaign = Campaign(options.work.resolve(), options.stages)
    campaign.prepare()
    random = Random(options.seed)
    totals: dict[str, Counter[str]] = {}
    for name in options.stages:
        faults = campaign.faults(name)
        if options.sample is not None:
            faults = random.sample(faults, min(options.sample, len(faults)))
        say({"power": name, "problems": campaign.promises[name]})
        totals[name] = Counter(calls=len(campaign.clean[name].calls))
        start = time.process_time()
        for how, n in faults:
            fault = campaign.try_fault(name, how, n)
            totals[name].update([how.name.lower(), fault.end, *(one.partition(":")[0] for one in fault.problems)])
            say(asdict(fault))
        say({"totals": name, **totals[name]})
        sys.stderr.write(f"{name}: {dict(totals[name])}, {time.process_time() - start:.1f} s\n")


if __name__ == "__main__":
    main()
