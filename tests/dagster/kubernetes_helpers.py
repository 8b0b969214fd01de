"""As much of Kubernetes' API as dagster-k8s asks for, over HTTP: jobs are kept, and run as processes here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: fake
contexts: [{{name: fake, context: {{cluster: fake, user: fake}}}}]
clusters: [{{name: fake, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: fake, user: {{}}}}]
"""


@dataclass
class Kubernetes:
    """The jobs that were posted, by their names, and the processes of their pods."""

    kubeconfig: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """What pods have beside what their job says."""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        given = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
        command = [sys.executable, "-m", *container["args"]]
        self.jobs[name] = job
        with (self.kubeconfig.parent / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, env={**os.environ, **given, **self.environment}, stdout=log, stderr=subprocess.STDOUT
            )

    def status(self, name: str) -> dict[str, Any]:
        code = self.processes[name].poll()
        states = {"active": code is None, "succeeded": code == 0, "failed": bool(code)}
        return {**self.jobs[name], "status": {state: 1 for state, holds in states.items() if holds}}

    def of_step(self, step: str) -> dict[str, Any]:
        """The job that ran `step`."""
        (job,) = [job for job in self.jobs.values() if job["metadata"]["labels"]["dagster/op"] == step]
        return job


@contextmanager
def running_kubernetes(folder: Path) -> Iterator[Kubernetes]:
    """A cluster without nodes; the logs of its pods are in `folder`."""
    cluster = Kubernetes(folder / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path.endswith("/jobs"), self.path
            cluster.start(job)
            self._answer(job)

        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].split("/")
            assert parts[-1] == "status", self.path
            self._answer(cluster.status(parts[-2]))

        def _answer(self, value: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        cluster.kubeconfig.write_text(KUBECONFIG.format(port=server.server_port))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield cluster
        finally:
            server.shutdown()
            thread.join()
            for process in cluster.processes.values():
                process.kill()
                process.wait()
