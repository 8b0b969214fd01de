"""The BigQuery emulator as a process, a proxy that cuts its connections, and a server that only refuses."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import google.cloud.bigquery as bq
import grpc
import pytest
import requests
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.bigquery_storage_v1.services.big_query_read import BigQueryReadClient
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

from booru_embed_core.posts.bigquery_access import CHANNEL_OPTIONS, Access
from booru_embed_core.schema import FLAG_COLUMNS

ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".venv-emulator"
PROJECT = "danbooru1"
START_SECONDS = 120
REQUIRE_VARIABLE = "BOORU_EMBED_REQUIRE_EMULATOR"


@dataclass(frozen=True)
class Emulator:
    rest_port: int
    grpc_port: int


@contextmanager
def running_emulator(log: Path) -> Iterator[Emulator]:
    """The emulator on free ports of the loopback; what it says goes to `log`."""
    command = [
        str(ENVIRONMENT / "bin/python"),
        str(Path(__file__).with_name("start_emulator.py")),
        "--project",
        PROJECT,
    ]
    environment = {**os.environ, "HOME": str(ENVIRONMENT / "home")}
    environment.pop("PYTHONPATH", None)
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=log.parent)
    try:
        yield Emulator(*_ports(process, log))
    finally:
        process.kill()  # it keeps nothing, and calls that were cut would hold up its end
        process.wait()


def _ports(process: subprocess.Popen[bytes], log: Path) -> tuple[int, int]:
    ports: dict[str, int] = {}
    pause = threading.Event()
    for _ in range(START_SECONDS * 10):
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.startswith("{") and line.endswith("}") and ".listen" in line:
                entry = json.loads(line)
                ports[entry["event"]] = entry["port"]
        if len(ports) == 2:
            return ports["rest.listen"], ports["grpc.listen"]
        assert process.poll() is None, log.read_text(encoding="utf-8")
        pause.wait(0.1)
    raise AssertionError(f"the emulator does not listen: {log.read_text(encoding='utf-8')}")


@contextmanager
def access_at(grpc_port: int, rest_port: int = 1) -> Iterator[Access]:
    """Access without credentials to what listens on these ports, for a project ``reader``."""
    options = [*CHANNEL_OPTIONS, ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.enable_http_proxy", 0)]
    with (
        grpc.insecure_channel(f"127.0.0.1:{grpc_port}", options=options) as channel,
        requests.Session() as http,
    ):
        http.trust_env = False
        storage = BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
        yield Access(storage=storage, http=http, project="reader", rest_url=f"http://127.0.0.1:{rest_port}")


def load_table(running: Emulator, table: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Adds `rows` to `table`, which is created when it is missing."""
    kinds = {"id": "INTEGER", "score": "INTEGER", **dict.fromkeys(FLAG_COLUMNS, "BOOLEAN")}
    schema = [bq.SchemaField(name, kinds.get(name, "STRING")) for name in rows[0]]
    endpoint = ClientOptions(api_endpoint=f"http://127.0.0.1:{running.rest_port}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        client = bq.Client(project=PROJECT, credentials=AnonymousCredentials(), client_options=endpoint)
        try:
            client.create_dataset(table.split(".")[1], exists_ok=True)
            client.create_table(bq.Table(table, schema=schema), exists_ok=True)
            # A file of unknown length is uploaded in the one way that the emulator knows for few rows and for many.
            lines = io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode())
            config = bq.LoadJobConfig(schema=schema, source_format=bq.SourceFormat.NEWLINE_DELIMITED_JSON)
            client.load_table_from_file(lines, table, job_config=config).result()
        finally:
            client.close()


@dataclass
class CuttingProxy:
    """Passes connections on to `target`; the n-th one is cut when `budgets[n]` bytes have come back."""

    target: int
    budgets: Sequence[int]
    port: int = 0
    num_cut: int = 0
    _connections: list[socket.socket] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        for number in range(1_000):
            try:
                inner, _ = listener.accept()
            except OSError:
                return
            outer = socket.create_connection(("127.0.0.1", self.target))
            self._connections += [inner, outer]
            budget = self.budgets[number] if number < len(self.budgets) else None
            threading.Thread(target=self._pass, args=(inner, outer, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(outer, inner, budget), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                if budget is not None and len(data) >= budget:
                    sink.sendall(data[:budget])
                    self.num_cut += 1
                    break
                budget = None if budget is None else budget - len(data)
                sink.sendall(data)
        self._hang_up(source, sink)

    def close(self) -> None:
        self._hang_up(*self._connections)

    @staticmethod
    def _hang_up(*connections: socket.socket) -> None:
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@contextmanager
def cutting_proxy(target: int, budgets: Sequence[int]) -> Iterator[CuttingProxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = CuttingProxy(target, budgets, listener.getsockname()[1])
        thread = threading.Thread(target=proxy.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            proxy.close()


@contextmanager
def scripted_server(
    create_session: Callable[[bytes, grpc.ServicerContext], bytes],
    read_rows: Callable[[bytes, grpc.ServicerContext], Iterator[bytes]],
) -> Iterator[int]:
    """The port of a Storage Read server that answers with these two functions, for what the emulator cannot do."""
    handlers = {
        "CreateReadSession": grpc.unary_unary_rpc_method_handler(create_session),
        "ReadRows": grpc.unary_stream_rpc_method_handler(read_rows),
    }
    server = grpc.server(ThreadPoolExecutor(4))
    service = "google.cloud.bigquery.storage.v1.BigQueryRead"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextmanager
def answering_server(answer: Callable[[str], tuple[int, object]]) -> Iterator[int]:
    """The port of an HTTP server that gives the status and the JSON that `answer` has for a request's path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, value = answer(self.path)
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
