"""Limits on every part of a request, and an end that loses none: a real socket, an application of a few lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from booru_embed_core.web import server
from booru_embed_core.web.middleware import BodyLimit
from booru_embed_core.web.server import DrainingServer, server_config

GET = b"GET /quick HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /quick HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
HUGE = b"x" * 40_000_000


class Application:
    """Answers at once, when `may_answer` is set, or with more than fits into any buffer."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.num_asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        self.num_asked += 1
        while scope["path"] == "/slow" and not self.may_answer.is_set():
            await asyncio.sleep(0.005)
        body = HUGE if scope["path"] == "/huge" else b"answer"
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


class Running:
    """A server in a thread."""

    def __init__(self) -> None:
        self.application = Application()
        self.server = DrainingServer(server_config(BodyLimit(self.application), port=0))
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        wait_until(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(self, content: bytes) -> bytes:
        """All that the server sends until it closes."""
        with self.connect() as client:
            with contextlib.suppress(OSError):
                client.sendall(content)
            return read_all(client)

    def stop(self) -> None:
        self.application.may_answer.set()
        self.stop_without_answers()

    def stop_without_answers(self) -> None:
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


def read_all(client: socket.socket) -> bytes:
    content = b""
    with contextlib.suppress(OSError):
        while part := client.recv(1 << 20):
            content += part
    return content


def wait_until(is_so: Any) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(server, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(server, "READ_SECONDS", 0.3)
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 4)
    found = Running()
    yield found
    found.stop()


def status_and_error(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET[:-2] + b"X: " + b"x" * 33_000 + b"\r\n\r\n",
        GET[:-2] + b"X: " + b"x" * 300_000,
        GET[:-2] + b"X: y\r\n" * 9_000 + b"\r\n",
        b"GET /" + b"a" * 33_000 + GET[10:],
    ],
    ids=["one", "without end", "many", "path"],
)
def test_headers_are_limited(running: Running, request_bytes: bytes) -> None:
    status, error = status_and_error(running.ask(request_bytes))
    assert (status, error) == (431, "the headers are larger than 32,768 bytes; send fewer or shorter ones")
    assert running.application.num_asked == 0


def test_long_headers_within_the_limit_are_read(running: Running) -> None:
    with running.connect() as client:
        client.sendall(GET[:-2] + b"X: " + b"x" * 30_000 + b"\r\n\r\n" + POST + b"body" + GET)
        wait_until(lambda: running.application.num_asked == 3)


def test_a_body_with_endless_trailers_is_cut_off(running: Running) -> None:
    head = POST.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")
    running.ask(head + b"2\r\nab\r\n0\r\n" + b"X: y\r\n" * 1_000_000)  # ends before its time is over
    assert running.application.num_asked == 0


@pytest.mark.parametrize("begun", [b"", b"GET / HT", GET[:-2], POST, POST + b"bod"])
def test_a_request_that_takes_too_long_is_ended(running: Running, begun: bytes) -> None:
    with running.connect() as client:
        client.sendall(begun)
        assert status_and_error(read_all(client))[0] == 408
    assert running.application.num_asked == 0


def test_drops_of_a_request_do_not_prolong_its_time(running: Running) -> None:
    with running.connect() as client, contextlib.suppress(OSError):
        for byte in GET * 3:
            client.sendall(bytes([byte]))
            time.sleep(0.02)
    assert running.application.num_asked == 0


def test_an_answer_may_take_longer_than_a_request(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)
        time.sleep(0.7)
        running.application.may_answer.set()
        wait_until(lambda: running.application.num_asked == 2)


def test_a_client_that_does_not_read_is_left(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"GET /huge HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: running.application.num_asked == 1)
        wait_until(lambda: not running.server.server_state.connections)
        assert len(read_all(client)) < len(HUGE)


def test_connections_are_limited_and_the_first_ones_still_answered(running: Running) -> None:
    clients = [running.connect() for _ in range(12)]
    wait_until(lambda: len(running.server.server_state.connections) >= 8)
    clients[0].sendall(GET)
    assert clients[0].recv(100).startswith(b"HTTP/1.1 200")
    clients[6].sendall(GET)
    assert status_and_error(read_all(clients[6]))[0] == 503
    assert status_and_error(read_all(clients[11]))[0] == 503
    for client in clients:
        client.close()
    wait_until(lambda: not running.server.server_state.connections)
    assert running.ask(GET.replace(b"localhost", b"localhost\r\nConnection: close")).endswith(b"answer")


def test_what_is_no_http_is_told_so_in_json(running: Running) -> None:
    assert status_and_error(running.ask(b"\x16\x03\x01\x02\x00\r\n\r\n")) == (400, "this is not a request of HTTP/1.1")


def test_every_request_that_was_begun_is_answered_before_the_end() -> None:
    running = Running()
    slow = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"
    clients = [running.connect() for _ in range(8)]
    for client, begun in zip(clients, (slow, slow, GET[:20], POST, POST + b"bo", b"", b"", b""), strict=True):
        client.sendall(begun)
    clients[5].sendall(GET)
    assert clients[5].recv(1000).endswith(b"answer")  # idle from here on
    wait_until(lambda: running.application.num_asked >= 3)
    with ThreadPoolExecutor(8) as threads:
        stopped = threads.submit(running.stop_without_answers)
        wait_until(lambda: not running.server.servers[0].is_serving())
        with pytest.raises(OSError, match="refused"):
            running.connect()
        clients[2].sendall(GET[20:])
        clients[3].sendall(b"body")
        clients[4].sendall(b"dy")
        clients[5].sendall(GET)
        running.application.may_answer.set()
        answers = list(threads.map(read_all, clients[:6]))
        stopped.result()
    for answer in answers:
        assert answer.endswith(b"answer")
        assert b"connection: close" in answer
    for client in clients:
        client.close()
