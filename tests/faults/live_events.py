"""What happens to a live project: the world of `live_daemon`, and the events that it draws from."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import IO

import dagster as dg

from booru_embed_dagster.automation.sensors import AUTOMATION_VARIABLE
from tests.dagster.project_helpers import REPOSITORY, Project
from tests.dagster.server_helpers import Server, answers, processes_of

QUIET_SECONDS = (6.0, 40.0)
"""How long nothing more happens after an event."""
START_SECONDS = 180
POLL_SECONDS = 2.0
FULL_SECONDS = (10.0, 40.0)
ROOM_BYTES = 3 << 20
CHUNK_BYTES = 1 << 20
LAUNCH_RUN = """
mutation($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector, runConfigData: {}}) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}"""
TERMINATE_RUN = """
mutation($run: String!) { terminateRun(runId: $run) { __typename ... on PythonError { message } } }"""
RELOAD = "mutation { reloadWorkspace { __typename } }"
UNFINISHED = [
    status
    for status in dg.DagsterRunStatus
    if status.value in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
]
DG = str(Path(sys.executable).with_name("dg"))
ASSETS = ["vocab", "packed_tokens", "checkpoint", "evaluation", "tag_embeddings", "posts"]


@dataclass
class Live:
    """A project, `dagster dev` on it, and what has happened to them."""

    project: Project
    random: Random
    out: Path
    has_disk: bool
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    waiting: dict[str, float] = field(default_factory=dict)
    """Runs whose process was killed and that are not ended yet, with the time of the kill."""
    ended: list[tuple[float, str]] = field(default_factory=list)
    """For each run whose process was killed: after how many seconds it was ended, and as what."""
    damaged: list[str] = field(default_factory=list)
    settings: dict[str, float] = field(default_factory=lambda: {"keep_percentile": 95, "num_epochs": 3, "rate": 0.02})
    shown: dict[str, str] = field(default_factory=dict)
    next_post: int = 10**9
    dev: subprocess.Popen[bytes] | None = None
    port: int = 0
    commands: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start = time.monotonic()
        self._log: IO[str] = (self.out / "events.log").open("a", encoding="utf-8")
        self._output = (self.out / "dagster_dev.log").open("ab")
        self.environment = {**os.environ, **self.project.environment(), AUTOMATION_VARIABLE: "on"}
        self.instance = self.project.instance()

    def close(self) -> None:
        """Closes what is open."""
        self.instance.dispose()
        self._log.close()
        self._output.close()

    def tell(self, name: str, text: str) -> None:
        """A line of the log: minutes since the start, what was done, what followed."""
        line = f"{(time.monotonic() - self._start) / 60:7.2f} {name:<22} {text}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        self._log.write(line + "\n")
        self._log.flush()

    @property
    def server(self) -> Server:
        """The web server; it may be down."""
        return Server(f"http://127.0.0.1:{self.port}", self.out / "dagster_dev.log")

    def spawn(self, *command: str) -> subprocess.Popen[bytes]:
        """A process on the project, in a session of its own."""
        return subprocess.Popen(
            command,
            env=self.environment,
            cwd=REPOSITORY,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ensure_dev(self) -> None:
        """Starts `dagster dev` if it does not run, as a person does who sees that it has ended.

        It does not start a code server again that was killed: that is what the UI's button "Reload all" is for.
        """
        if self.dev is not None and self.dev.poll() is None:
            if not answers(self.server):
                self.tell("reload", f"{_ask(self, RELOAD)}; it {self._wait_for_answer()}")
            if answers(self.server):
                return
            self.tell("stop dev", "Ctrl-C")
            self.dev.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.dev.wait(90)
        if self.dev is not None:
            self.tell("dev has ended", f"exit code {self.dev.returncode}")
            self.kill_all(self.pids("dagster_webserver") | self.pids("dagster._daemon") | self.pids("code-server"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        where = ["-w", str(REPOSITORY / "workspace.yaml"), "--host", "127.0.0.1", "--port", str(self.port)]
        self.dev = self.spawn(sys.executable, "-m", "dagster", "dev", *where)
        self.tell("dev is started", f"it {self._wait_for_answer()}")

    def _wait_for_answer(self) -> str:
        end = time.monotonic() + START_SECONDS
        while not answers(self.server) and self.dev and self.dev.poll() is None and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return "answers" if answers(self.server) else "does not answer"

    def stop_dev(self) -> None:
        """Ends `dagster dev` as Ctrl-C does."""
        if self.dev is not None and self.dev.poll() is None:
            self.dev.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.dev.wait(90)
        self.kill_all()

    def pids(self, part: str = "") -> set[int]:
        """Our processes with `part` in their command line."""
        return processes_of(self.project, part) - {os.getpid()}

    def kill_all(self, pids: set[int] | None = None) -> int:
        """SIGKILL to `pids`, or to all processes of the project; runs that they execute are waited for from now on."""
        found = self.pids() if pids is None else pids
        lost = [run for run, pid in self.executing().items() if pid in found]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for run in lost:
            self.waiting.setdefault(run, time.monotonic())
        for process in [*self.commands, *([self.dev] if self.dev else [])]:
            process.poll()
        return len(found)

    def executing(self) -> dict[str, int]:
        """The process of each run that has one, by the files that say so."""
        found = {}
        living = self.pids()
        for file in Path(self.instance.storage_directory(), "processes").glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(json.loads(file.read_bytes())["pid"])
                if pid in living:
                    found[file.stem] = pid
        unfinished = {run.run_id for run in self.unfinished()}
        return {run: pid for run, pid in found.items() if run in unfinished}

    def runs(self, statuses: Sequence[dg.DagsterRunStatus] = ()) -> Sequence[dg.DagsterRun]:
        """The runs with one of `statuses`, or all."""
        return self.instance.get_runs(dg.RunsFilter(statuses=list(statuses)) if statuses else None)

    def unfinished(self) -> Sequence[dg.DagsterRun]:
        """The runs that have not ended."""
        return self.runs(UNFINISHED)

    def watch(self, seconds: float) -> None:
        """Waits; notes when killed runs are ended, and that without a person."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for run_id, since in list(self.waiting.items()):
                run = self.instance.get_run_by_id(run_id)
                if run is not None and run.is_finished:
                    del self.waiting[run_id]
                    self.ended.append((time.monotonic() - since, run.status.value))
                    self.tell("killed run is ended", f"{run.status.value} after {time.monotonic() - since:.0f} s")
            self.commands = [process for process in self.commands if process.poll() is None]
            time.sleep(POLL_SECONDS)

    def state(self) -> str:
        """Runs by status, and the assets whose current version is another than when this was last asked."""
        statuses = collections.Counter(run.status.value for run in self.runs())
        current = {link.parent.name: link.readlink().name for link in self.project.warehouse.root.glob("*/current")}
        short = [
            f"{name} {version[:6]}" for name, version in sorted(current.items()) if self.shown.get(name) != version
        ]
        self.shown = current
        counts = ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))
        return "; ".join([counts, *short])

    def write_settings(self, broken: str = "") -> None:
        """The settings as they are now, replaced at once as editors do."""
        chosen = self.settings
        draft = Project(self.project.folder / "draft")
        draft.folder.mkdir(exist_ok=True)
        draft.set(keep_percentile=chosen["keep_percentile"], num_epochs=int(chosen["num_epochs"]))
        text = draft.settings_file.read_text(encoding="utf-8")
        text = text.replace("learning_rate = 0.02", f"learning_rate = {chosen['rate']}")
        draft.settings_file.write_text(broken + text, encoding="utf-8")
        draft.settings_file.replace(self.project.settings_file)

    def calm(self) -> None:
        """Ends the faults: the settings can be read, the disk has room."""
        (self.project.folder / "filler").unlink(missing_ok=True)
        self.write_settings()

    def num_materializations(self) -> int:
        """How often an asset was materialized."""
        keys = self.instance.all_asset_keys()
        return sum(len(self.instance.fetch_materializations(key, limit=10_000).records) for key in keys)

    def num_posts(self) -> int:
        """The lines of the export, without its header."""
        return sum(1 for _ in self.project.export_file.open("rb")) - 1


def edit_percentile(live: Live) -> str:
    """Another cut of the vocabulary."""
    live.settings["keep_percentile"] = live.random.choice([80, 85, 90, 92.5, 95, 97, 99, 99.5])
    live.write_settings()
    return f"keep_percentile = {live.settings['keep_percentile']}"


def edit_training(live: Live) -> str:
    """Other settings of the training."""
    live.settings["num_epochs"] = live.random.randint(3, 6)
    live.settings["rate"] = live.random.choice([0.01, 0.015, 0.02])
    live.write_settings()
    return f"num_epochs = {live.settings['num_epochs']}, learning_rate = {live.settings['rate']}"


def break_settings(live: Live) -> str:
    """A file that cannot be read for a while, and then can."""
    live.write_settings(broken=live.random.choice(["[vocab\n", "[posts]\nunknown = 1\n", "x = 'open\n"]))
    live.watch(live.random.uniform(5, 30))
    live.write_settings()
    return "and repaired"


def grow_export(live: Live) -> str:
    """More posts: appended line by line, as a slow writer does, or at once."""
    lines = live.project.export_file.read_text(encoding="utf-8").splitlines()[1:]
    number, is_slow = live.random.randint(1, 40), live.random.random() < 0.3
    with live.project.export_file.open("a", encoding="utf-8", newline="") as out:
        for line in live.random.choices(lines, k=number):
            row = line.replace(line.partition(",")[0], str(live.next_post), 1) + "\n"
            live.next_post += 1
            out.write(row[: len(row) // 2])
            if is_slow:
                out.flush()
                time.sleep(0.3)
            out.write(row[len(row) // 2 :])
    return f"{number} posts, {'slowly' if is_slow else 'at once'}"


def kill_one(part: str) -> Callable[[Live], str]:
    """SIGKILL to one of our processes that have `part` in their command line."""

    def act(live: Live) -> str:
        if not (pids := sorted(live.pids(part))):
            return "none is there"
        live.kill_all({live.random.choice(pids)})
        return "killed"

    return act


def kill_run(live: Live) -> str:
    """SIGKILL to the process of a run; if there is none, one is started first."""
    if not live.executing():
        start_in_ui(live)
        live.watch(live.random.uniform(5, 25))
    if not (runs := sorted(live.executing().items())):
        return "none is there"
    run_id, pid = live.random.choice(runs)
    live.kill_all({pid})
    return f"run {run_id[:8]}"


def power_cut(live: Live) -> str:
    """SIGKILL to everything at once."""
    if live.random.random() < 0.7:
        start_in_ui(live)
        live.watch(live.random.uniform(3, 25))
    lost = len(live.executing())
    return f"{live.kill_all()} processes, {lost} runs"


def start_command(live: Live) -> str:
    """A run from the command line, left alone."""
    selection = live.random.choice(['key:"*"', 'key:"vocab"+', "posts", "vocab,packed_tokens"])
    live.commands.append(live.spawn(DG, "launch", "--assets", selection))
    return selection


def signal_command(live: Live) -> str:
    """A run from the command line that gets a signal: its terminal is closed, Ctrl-C, or worse."""
    selection = live.random.choice(['key:"*"', 'key:"vocab"+'])
    process = live.spawn(DG, "launch", "--assets", selection)
    live.watch(live.random.uniform(8, 35))
    number = live.random.choice([signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
    executed = [run for run, pid in live.executing().items() if pid == process.pid]
    if number == signal.SIGKILL:
        live.kill_all({process.pid})
    else:
        process.send_signal(number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    time.sleep(POLL_SECONDS)
    ended = [run.status.value for run_id in executed if (run := live.instance.get_run_by_id(run_id))]
    return f"{number.name} to {selection}: exit code {process.poll()}, run {ended or 'not begun, or over'}"


def start_in_ui(live: Live) -> str:
    """The button of the UI."""
    asset = live.random.choice(ASSETS)
    selector = {
        "repositoryLocationName": "booru_embed",
        "repositoryName": "__repository__",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [{"path": [asset]}],
    }
    return f"{asset}: {_ask(live, LAUNCH_RUN, selector=selector)}"


def terminate_in_ui(live: Live) -> str:
    """The other button of the UI."""
    if not (runs := live.runs([dg.DagsterRunStatus.STARTED])):
        return "none is there"
    return _ask(live, TERMINATE_RUN, run=live.random.choice(runs).run_id)


def start_job(live: Live) -> str:
    """One of the jobs."""
    job = live.random.choice(["prune", "rebuild"])
    live.commands.append(live.spawn(DG, "launch", "--job", job))
    return job


def fill_disk(live: Live) -> str:
    """A disk with next to no room, for a while, in which runs are started."""
    filler, room = live.project.folder / "filler", live.random.randint(0, ROOM_BYTES)
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(CHUNK_BYTES))
    if filler.stat().st_size > room:
        os.truncate(filler, filler.stat().st_size - room)
    started = start_in_ui(live) if live.random.random() < 0.5 else start_command(live)
    seconds = live.random.uniform(*FULL_SECONDS)
    time.sleep(seconds)
    filler.unlink()
    return f"{room:,} bytes left for {seconds:.0f} s; started {started}"


def _ask(live: Live, query: str, **variables: object) -> str:
    try:
        (answer,) = live.server.graphql(query, **variables).values()
    except (urllib.error.URLError, ConnectionError, TimeoutError, AssertionError) as error:  # it may be down or full
        return f"no answer: {str(error)[:80]}"
    return str(answer["__typename"])


@dataclass(frozen=True)
class Event:
    """Something that may happen; how often, beside the others."""

    name: str
    weight: float
    act: Callable[[Live], str]
    needs_disk: bool = False


EVENTS = [
    Event("edit percentile", 3, edit_percentile),
    Event("edit training", 2, edit_training),
    Event("break settings", 1, break_settings),
    Event("grow export", 3, grow_export),
    Event("kill run", 3, kill_run),
    Event("kill training", 2, kill_one("booru_embed_dagster.training.worker")),
    Event("kill daemon", 1, kill_one("dagster._daemon")),
    Event("kill web server", 0.7, kill_one("dagster_webserver")),
    Event("kill code server", 1, kill_one("dagster api grpc")),
    Event("kill its proxy", 0.5, kill_one("dagster code-server")),
    Event("power cut", 1.5, power_cut),
    Event("command line", 2, start_command),
    Event("signal command line", 3, signal_command),
    Event("start in the UI", 2, start_in_ui),
    Event("terminate in the UI", 2, terminate_in_ui),
    Event("start job", 1, start_job),
    Event("disk full", 2, fill_disk, needs_disk=True),
]
