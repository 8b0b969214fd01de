"""`dagster dev` on a project: the real web server, daemon and code location, as `make ui` starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.dagster.project_helpers import REPOSITORY, Project

START_SECONDS = 120
STOP_SECONDS = 60
POLL_SECONDS = 1.0
LOCATIONS = """{ workspaceOrError { ... on Workspace {
    locationEntries { loadStatus locationOrLoadError { __typename } } } } }"""


@dataclass(frozen=True)
class Server:
    """A running `dagster dev`."""

    url: str
    log: Path

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data that the web server answers `query` with."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        data: dict[str, Any] = found["data"]
        return data


@contextlib.contextmanager
def dagster_dev(project: Project, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """`dagster dev` on `project`, stopped with all of its processes when the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = project.folder / "dagster_dev.log"
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(REPOSITORY / "workspace.yaml")]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **project.environment(), **(environment or {})},
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        server = Server(f"http://127.0.0.1:{port}", log)
        try:
            wait_for(lambda: answers(server), START_SECONDS, log)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):  # what outlived it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(is_so: Callable[[], object], seconds: float, log: Path) -> None:
    """Returns when `is_so` is; fails with the end of `log` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            tail = log.read_text(encoding="utf-8", errors="replace")[-5000:]
            raise AssertionError(f"not so after {seconds} seconds; the server's last lines:\n{tail}")
        time.sleep(POLL_SECONDS)


def answers(server: Server) -> bool:
    """Whether the web server answers and its code location is loaded."""
    try:
        locations = server.graphql(LOCATIONS)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    entries = locations["workspaceOrError"]["locationEntries"]
    loaded = {"loadStatus": "LOADED", "locationOrLoadError": {"__typename": "RepositoryLocation"}}
    return bool(entries) and all(entry == loaded for entry in entries)


def processes_of(project: Project, part: str = "") -> set[int]:
    """The processes that work on `project` and have `part` in their command line."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if f"DAGSTER_HOME={project.folder}/dagster_home".encode() in environment and part in line:
            found.add(int(folder.name))
    return found
