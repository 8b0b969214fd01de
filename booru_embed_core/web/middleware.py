"""ASGI middleware for all routes: security headers, the names that are answered, and a limit for bodies."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv6Address, ip_address
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES: Final = 1_000_000
LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
_HOST: Final = re.compile(r"(?:\[(?P<ip>[\da-f:.]+)\]|(?P<name>[^\s\[\]:/?#@\\]+))(?::\d{0,5})?", re.IGNORECASE)
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class SecurityHeaders:
    """Adds headers that keep browsers from loading other hosts, framing the page and guessing content types."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class HostCheck:
    """Answers only requests for the server's own names, with a 421 or 400 for others.

    A page of a name that is made to point at this machine (DNS rebinding) is of the same origin as the server to a
    browser. Its requests carry that name.

    Args:
        app: the application.
        hosts: names and addresses, beside the address that a connection reached; ``*`` stands for all.
        command: the one that takes ``--allow-host``, for the message.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], command: str = "booru-embed serve") -> None:
        self._app = app
        self._hosts = {spelled_host(host) for host in hosts}
        self._command = command

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "*" not in self._hosts:
            given = Headers(scope=scope).getlist("host")
            host = host_of(given[0]) if len(given) == 1 else None
            if host is None:
                error = "a request names one host, in the header Host"
                await JSONResponse({"error": error}, 400)(scope, receive, send)
                return
            server = scope.get("server") or ("",)
            if host not in self._hosts and not (is_address(host) and host == spelled_host(str(server[0]))):
                error = f"{host} is not served here; start `{self._command}` with --allow-host {host}"
                await JSONResponse({"error": error}, 421)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def host_of(header: str) -> str | None:
    """The name or address in the value of a header Host, as `spelled_host` spells it; None if it is none."""
    found = _HOST.fullmatch(header)
    return spelled_host(found["ip"] or found["name"]) if found else None


def spelled_host(host: str) -> str:
    """A name in lower case and without a full stop at its end, or an address as it is usually spelled."""
    host = host.lower().removesuffix(".")
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str((isinstance(address, IPv6Address) and address.ipv4_mapped) or address)


def is_address(host: str) -> bool:
    """Whether `host` is an address of IPv4 or IPv6, without brackets."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class BodyLimit:
    """Answers a body of more than `max_bytes` with a 413, and never holds it whole."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        body = bytearray()
        if length.isdecimal() and int(length) <= self._max_bytes:
            while True:  # a chunked body shows its length only when it is read
                message = await receive()
                if message["type"] != "http.request":
                    return
                body += message.get("body", b"")
                if not message.get("more_body") or len(body) > self._max_bytes:
                    break
        if not length.isdecimal() or max(int(length), len(body)) > self._max_bytes:
            refusal = {"error": f"the body is larger than {self._max_bytes:,} bytes; send fewer captions at once"}
            await JSONResponse(refusal, 413, {"Connection": "close"})(scope, receive, send)
            return
        is_read = False

        async def receive_body() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, receive_body, send)
