"""Headers, names of the server and the limit for bodies, on an application that echoes what it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from booru_embed_core.web.middleware import LOOPBACK_HOSTS, BodyLimit, HostCheck, SecurityHeaders

LIMIT = 10


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": body})


def call(
    app: Any,
    chunks: list[bytes],
    headers: dict[str, str] | list[tuple[str, str]],
    kind: str = "http",
    **scope_values: Any,
) -> tuple[list[Any], int]:
    """What `app` sends for a body in `chunks`, and how many of them it took."""
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": c, "more_body": i < len(chunks) - 1} for i, c in enumerate(chunks)]
    left = [*messages, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [
        (name.encode(), value.encode()) for name, value in (headers.items() if isinstance(headers, dict) else headers)
    ]
    scope = {"type": kind, "method": "POST", "path": "/", "headers": raw, **scope_values}
    asyncio.run(app(scope, receive, send))
    return sent, len(messages) + 1 - len(left)


@pytest.mark.parametrize("chunks", [[b""], [b"0123456789"], [b"01", b"234", b"", b"56789"]])
@pytest.mark.parametrize("is_declared", [True, False])
def test_a_body_up_to_the_limit_arrives_whole(chunks: list[bytes], is_declared: bool) -> None:
    headers = {"content-length": str(len(b"".join(chunks)))} if is_declared else {}
    sent, _ = call(BodyLimit(echo, LIMIT), chunks, headers)
    assert [message.get("body") for message in sent] == [None, b"".join(chunks)]


@pytest.mark.parametrize(
    ("chunks", "headers", "num_read"),
    [
        ([b"0123456789a"], {"content-length": "11"}, 0),
        ([b"01"], {"content-length": "-1"}, 0),
        ([b"01"], {"content-length": "ten"}, 0),
        ([b"012345", b"678901", b"234"], {}, 2),
        ([b"012345", b"678901", b"234"], {"content-length": "3"}, 2),
    ],
)
def test_a_larger_body_is_refused_and_read_no_further(
    chunks: list[bytes], headers: dict[str, str], num_read: int
) -> None:
    sent, taken = call(BodyLimit(echo, LIMIT), chunks, headers)
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in [(name.lower(), value.lower()) for name, value in sent[0]["headers"]]
    assert b"the body is larger than 10 bytes" in sent[1]["body"]
    assert taken == num_read


def test_a_client_that_leaves_is_not_answered() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asyncio.run(BodyLimit(echo, LIMIT)(scope, receive, send))
    assert sent == []


def test_every_answer_has_the_security_headers_beside_its_own() -> None:
    (start, _), _ = call(SecurityHeaders(echo), [b"x"], {})
    headers = dict(start["headers"])
    assert headers[b"x-own"] == b"1"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"referrer-policy"] == b"no-referrer"
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy


def test_other_protocols_pass_unchanged() -> None:
    plain, _ = call(echo, [b"x" * 99], {}, "lifespan")
    assert call(SecurityHeaders(BodyLimit(echo, LIMIT)), [b"x" * 99], {}, "lifespan")[0] == plain


def status_for(host: str | None, hosts: tuple[str, ...] = LOOPBACK_HOSTS, server: Any = ("127.0.0.1", 80)) -> int:
    headers = {} if host is None else {"host": host}
    return int(call(HostCheck(echo, hosts), [b""], headers, server=server)[0][0]["status"])


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8010", "localhost.", "127.0.0.1:80", "[::1]", "[0:0::1]:80", "[::ffff:127.0.0.1]"],
)
def test_the_servers_own_names_are_answered(host: str) -> None:
    assert status_for(host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example",
        "localhost.rebound.example",
        "127.0.0.1.rebound.example",
        "127.0.0.2",
        "127.1",
        "0.0.0.0",
        "[::2]",
        "localhost..",
    ],
)
def test_other_names_are_misdirected(host: str) -> None:
    assert status_for(host) == 421


@pytest.mark.parametrize("host", [None, "", ":80", "a b", "user@localhost", "localhost:80:80", "[::1", "local/host"])
def test_a_request_names_one_host(host: str | None) -> None:
    assert status_for(host) == 400


def test_two_hosts_are_refused() -> None:
    sent, _ = call(HostCheck(echo, LOOPBACK_HOSTS), [b""], [("host", "localhost")] * 2)
    assert sent[0]["status"] == 400


def test_named_hosts_and_the_reached_address_are_answered() -> None:
    assert status_for("Tags.Example.:80", ("tags.example",)) == 200
    assert status_for("192.168.1.5:8010", server=("192.168.1.5", 8010)) == 200
    assert status_for("[fe80::1]", server=("fe80:0::1", 80)) == 200
    assert status_for("192.168.1.5", server=None) == 421
    assert status_for("/run/server.sock", server=("/run/server.sock", None)) == 400
    assert status_for("any.example", ("*",)) == 200
