"""The protocol over streamable HTTP: an ASGI application that answers the same hosts as `booru-embed serve`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final
from urllib.parse import urlsplit

from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from booru_embed_core.web.middleware import LOOPBACK_HOSTS, BodyLimit, HostCheck, SecurityHeaders, spelled_host

PATH: Final = "/mcp"
_MCP_HEADERS: Final = ("Mcp-Method", "Mcp-Name", "Mcp-Protocol-Version")
_COMMAND: Final = "booru-embed mcp"


def create_app(server: Server[Any], allow_origins: Collection[str] = (), hosts: Collection[str] = ()) -> ASGIApp:
    """The application, which answers at `PATH`, each request on its own and in JSON.

    The tools need no session and send nothing by themselves, so none is kept, and a restart breaks no client.

    Args:
        server: the tools.
        allow_origins: origins whose pages may call the tools in a browser; ``*`` stands for all.
        hosts: names and addresses that are answered, beside those of this machine alone; ``*`` stands for all.
    """
    # The SDK's own check of hosts knows neither ``*`` nor the address that a connection reached.
    unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH, json_response=True, stateless_http=True, transport_security=unchecked
    )
    app = OriginCheck(PostOnly(BodyLimit(app)), allow_origins)
    if allow_origins:
        app = CORSMiddleware(
            app,
            allow_origins,
            allow_methods=("POST",),
            allow_headers=("Content-Type", *_MCP_HEADERS),
        )
    return SecurityHeaders(HostCheck(app, (*LOOPBACK_HOSTS, *hosts), _COMMAND))


class PostOnly:
    """Answers other methods with a 405: clients GET a stream of messages, or DELETE a session; here is neither."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] != "POST":
            error = "calls are sent by POST; there are no sessions and no streams"
            await JSONResponse({"error": error}, 405, {"Allow": "POST"})(scope, receive, send)
            return
        await self._app(scope, receive, send)


class OriginCheck:
    """Refuses pages of other origins with a 403, as the protocol demands of local servers; `HostCheck` comes before it.

    Args:
        app: the application.
        allow_origins: origins beside the server's own; ``*`` stands for all.
    """

    def __init__(self, app: ASGIApp, allow_origins: Collection[str]) -> None:
        self._app = app
        self._allowed = frozenset(allow_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "*" not in self._allowed:
            headers = Headers(scope=scope)
            foreign = [one for one in headers.getlist("origin") if not self._is_allowed(one, headers.get("host", ""))]
            if foreign:
                error = f"pages of {foreign[0]} may not call this; start `{_COMMAND}` with --allow-origin {foreign[0]}"
                await JSONResponse({"error": error}, 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_allowed(self, origin: str, host: str) -> bool:
        """Whether `origin` is named, or is that of a page of this server, by the `host` that the request names."""
        return origin in self._allowed or spelled_host(urlsplit(origin).netloc) == spelled_host(host)
