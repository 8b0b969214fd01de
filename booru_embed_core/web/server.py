"""uvicorn with limits on what a client may take, and an end that answers every request that was begun.

uvicorn has no limits on the bytes of headers (with httptools), on the time that headers and a body take, or on clients
that do not read their answer. `LimitedProtocol` adds them. `DrainingServer` adds what uvicorn drops when it stops:
connections that the kernel has accepted, and requests of which a part has arrived.
"""

from __future__ import annotations

import asyncio
import json
import socket
from asyncio import TimerHandle
from http import HTTPStatus
from typing import Any, Final

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from booru_embed_core.web.middleware import MAX_BODY_BYTES, SecurityHeaders

MAX_HEADER_BYTES: Final = 32_768
"""Of the request line and all headers: browsers send 1 to 8 kB."""
MAX_REQUEST_BYTES: Final = 4 * MAX_BODY_BYTES
"""Of a whole request as it arrives, with the framing of its chunks."""
HEADER_SECONDS: Final = 10.0
"""From the first byte of a request, or from the beginning of a connection, to the end of its headers."""
BODY_SECONDS: Final = 30.0
"""From the end of the headers to the end of the body."""
READ_SECONDS: Final = 30.0
"""In which a client must take in a part of its answer."""
IDLE_SECONDS: Final = 5
"""In which the next request of a connection must begin."""
MAX_CONNECTIONS: Final = 256
"""On further ones requests are answered with 503; more than twice as many are not kept open at all."""
STOP_SECONDS: Final = 8
"""In which requests that were begun must be answered once the server stops."""
_BACKLOG_SECONDS: Final = 0.05
"""In which the event loop takes the connections that the kernel has accepted."""
_LAST_SECONDS: Final = 0.5
"""In which an idle connection may still begin a request once the server stops: its client does not know yet."""

_TOO_LARGE: Final = (431, f"the headers are larger than {MAX_HEADER_BYTES:,} bytes; send fewer or shorter ones")
_TOO_MANY: Final = (503, f"more than {MAX_CONNECTIONS:,} connections are open; try again in a few seconds")
_NO_HTTP: Final = (400, "this is not a request of HTTP/1.1")
_TOO_SLOW: Final = (
    408,
    f"the request took longer than {HEADER_SECONDS:.0f} s for headers or {BODY_SECONDS:.0f} s for a body",
)


class LimitedProtocol(HttpToolsProtocol):
    """A connection that is refused what exceeds the limits of this module."""

    _timer: TimerHandle | None = None
    """Ends the connection unless the headers, or the body, are complete before."""
    _stall: TimerHandle | None = None
    """Ends the connection unless its client reads on."""
    _is_begun = False
    """Whether a part of a request has arrived, but not all of it."""
    _has_headers = False
    _is_draining = False
    _is_too_many = False
    _num_bytes = 0
    """Of the request that is read."""
    _chunk_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time for headers; a connection that is far too many is refused before it asks."""
        super().connection_made(transport)
        self._is_too_many = len(self.connections) > MAX_CONNECTIONS
        self._start_timer(HEADER_SECONDS)
        if len(self.connections) > 2 * MAX_CONNECTIONS:
            self._end(*_TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops all timers."""
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn does so only where no error ended the connection

    def data_received(self, data: bytes) -> None:
        """Reads on, up to the limits of bytes."""
        self._num_bytes += len(data)
        self._chunk_bytes = 0 if self._is_begun else len(data)
        super().data_received(data)
        if self._is_begun and not self._has_headers and self._num_bytes > MAX_HEADER_BYTES:
            self._end(*_TOO_LARGE)
        elif self._num_bytes > MAX_REQUEST_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Starts the time for headers."""
        super().on_message_begin()
        self._is_begun, self._has_headers, self._num_bytes = True, False, self._chunk_bytes
        self._start_timer(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        """Chooses who answers: the application, or a refusal."""
        self._has_headers = True
        self._start_timer(BODY_SECONDS)
        header_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self.app = self.config.loaded_app
        if header_bytes > MAX_HEADER_BYTES:
            self.app = _refusal(*_TOO_LARGE)
        elif self._is_too_many:
            self.app = _refusal(*_TOO_MANY)
        super().on_headers_complete()
        if self._is_draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Stops the time for the body."""
        self._is_begun = False
        self._num_bytes = 0
        self._stop_timer()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Starts the time in which the client must read."""
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stops the time in which the client must read."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, also where its client never reads the end of its answer."""
        super().timeout_keep_alive_handler()
        self._abort_later()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's text is another
        """Answers what is no HTTP, in JSON like every other refusal."""
        self._end(*_NO_HTTP)

    def drain(self) -> None:
        """Lets the connection end with the answer to the request that is begun, or to the next one."""
        self._is_draining = True
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Ends the connection now, or after the request that is begun."""
        self._is_draining = True
        if not self._is_begun or self._has_headers:
            super().shutdown()

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._expired, seconds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self, seconds: float) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (is_answering and not (self._is_begun and self._has_headers)):
            self._start_timer(seconds)  # the server reads no further until it has answered
        else:
            self._end(*_TOO_SLOW)

    def _end(self, status: int, message: str) -> None:
        """Answers in the place of the application unless it has begun to, and closes the connection."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            content = json.dumps({"error": message}).encode()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + content)
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        if self.transport.get_write_buffer_size():
            self.loop.call_later(READ_SECONDS, self.transport.abort)


class DrainingServer(uvicorn.Server):
    """A server that answers every request that was begun before it stops."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no new connections, answers what was begun within `STOP_SECONDS`, and ends."""
        await asyncio.sleep(_BACKLOG_SECONDS)
        for server in self.servers:
            server.close()
        for listening in sockets or ():
            listening.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, LimitedProtocol):
                connection.drain()
        if self.server_state.connections:
            await asyncio.sleep(_LAST_SECONDS)
        await super().shutdown(sockets)


def server_config(app: ASGIApp, *, access_log: bool = False, **options: Any) -> uvicorn.Config:
    """The configuration of a `DrainingServer` for `app`, with the limits of this module."""
    return uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        proxy_headers=False,
        server_header=False,
        log_level="info" if access_log else "error",
        access_log=access_log,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        **options,
    )


def _refusal(status: int, message: str) -> ASGIApp:
    """An application that answers every request with one error."""
    return SecurityHeaders(JSONResponse({"error": message}, status, {"Connection": "close"}))
