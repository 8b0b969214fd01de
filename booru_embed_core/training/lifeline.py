"""Connections between rank 0 and every other rank that tell when the other end is gone, or when the link is cut.

A collective waits for a rank whose machine was unplugged until its timeout, which must be long: ranks wait while
another one saves. Here the kernels ask each other whether the connection still stands, also while a rank computes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Final, Protocol

SILENT_SECONDS: Final = 20
"""How long a link may be cut. A kernel that does not answer so long is gone."""
_NUM_PROBES: Final = 4
_ADDRESS: Final = "lifeline"
_RANK: Final = struct.Struct("!I")
_BYE: Final = b"."
"""What a rank sends that leaves in order."""


class Store(Protocol):
    """What is used of ``torch.distributed.Store``."""

    def set(self, key: str, value: str, /) -> None:
        """Puts `value` where all ranks can read it."""

    def get(self, key: str, /) -> bytes:
        """The value, as soon as there is one."""

    def add(self, key: str, amount: int, /) -> int:
        """The number at `key`, raised by `amount`."""


class Lifeline:
    """The connections of this rank.

    Attributes:
        loss: which connection broke without a farewell, and how; None while all stand.
    """

    def __init__(self, connections: dict[int, socket.socket], on_loss: Callable[[], object]) -> None:
        self.loss: str | None = None
        self._connections = connections
        self._on_loss = on_loss
        self._waking, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self._thread.start()

    def close(self, is_in_order: bool) -> None:
        """Ends the connections, with a farewell if this rank `is_in_order`."""
        self._waking.close()
        self._thread.join()
        for connection in self._connections.values():
            with contextlib.suppress(OSError):  # the other end has left
                if is_in_order:
                    connection.sendall(_BYE)
            connection.close()
        self._woken.close()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._woken, selectors.EVENT_READ)
            for rank, connection in self._connections.items():
                waiting.register(connection, selectors.EVENT_READ, (f"rank {rank} at {_host(connection)}", connection))
            while True:
                for key, _ in waiting.select():
                    if key.data is None:
                        return
                    name, connection = key.data
                    if (loss := _loss(connection)) is not None:
                        self.loss = f"{name} {loss}"
                        self._on_loss()
                        return
                    waiting.unregister(connection)


def _loss(connection: socket.socket) -> str | None:
    """How `connection` broke; None if the other end said farewell."""
    try:
        return None if connection.recv(1) == _BYE else "ended"
    except TimeoutError:
        return f"has not answered for {SILENT_SECONDS} s"
    except OSError as error:
        return f"cannot be reached ({error.strerror})"


def _host(connection: socket.socket) -> str:
    with contextlib.suppress(OSError):
        return str(connection.getpeername()[0])
    return "an unknown address"


@contextmanager
def lifeline(
    store: Store, address: tuple[str, int], rank: int, num_ranks: int, timeout: timedelta, on_loss: Callable[[], object]
) -> Iterator[Lifeline]:
    """The connections of `rank` among `num_ranks`, until the block ends.

    Args:
        store: through which the ranks have found each other.
        address: where they have reached it: rank 0 listens at the address of this machine that leads there.
        rank: of this process.
        num_ranks: of the training, 2 or more.
        timeout: how long to wait for the others.
        on_loss: called once by another thread, when another rank has ended or does not answer any more.

    Raises:
        OSError: the others cannot be reached within `timeout`.
    """
    seconds = timeout.total_seconds()
    with ExitStack() as stack:
        if rank == 0:
            found = _accepted(stack, store, address, num_ranks, seconds)
        else:
            host, _, port = store.get(_ADDRESS).decode().rpartition(" ")
            found = {0: stack.enter_context(socket.create_connection((host, int(port)), seconds))}
            found[0].sendall(_RANK.pack(rank))
        for connection in found.values():
            _keep_alive(connection)
        line, is_in_order = Lifeline(found, on_loss), False
        try:
            yield line
            is_in_order = line.loss is None
        finally:
            line.close(is_in_order)


def _accepted(
    stack: ExitStack, store: Store, address: tuple[str, int], num_ranks: int, seconds: float
) -> dict[int, socket.socket]:
    with socket.create_connection(address, seconds) as known:
        host, family = known.getsockname()[0], known.family
    found: dict[int, socket.socket] = {}
    with socket.create_server((host, 0), family=family, backlog=num_ranks) as server:
        server.settimeout(seconds)
        store.set(_ADDRESS, f"{host} {server.getsockname()[1]}")
        while len(found) < num_ranks - 1:
            connection = stack.enter_context(server.accept()[0])
            connection.settimeout(seconds)
            greeting = connection.recv(_RANK.size, socket.MSG_WAITALL)
            if len(greeting) == _RANK.size:  # another program may have knocked
                found[_RANK.unpack(greeting)[0]] = connection
    return found


def _keep_alive(connection: socket.socket) -> None:
    """Has the kernel ask for the other end after a quiet time, and end the connection if nothing answers."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    pause = max(1, SILENT_SECONDS // _NUM_PROBES)
    for name, value in (("TCP_KEEPIDLE", pause), ("TCP_KEEPINTVL", pause), ("TCP_KEEPCNT", _NUM_PROBES - 1)):
        if hasattr(socket, name):  # Linux has them all
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def end_connections() -> None:
    """Shuts down every TCP connection of this process, so that what waits for one ends with an error.

    gloo (torch 2.13) wakes no collective that waits: ``abort`` returns at once, and the collective waits on.
    """
    for connection in tcp_connections():
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def tcp_connections() -> Iterator[socket.socket]:
    """The open TCP connections of this process, those of libraries too; each is open until the next is asked for."""
    for name in os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"):
        with contextlib.suppress(OSError), _socket(int(name)) as one:
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                one.getpeername()  # an OSError if it only listens
                yield one


def _socket(descriptor: int) -> socket.socket:
    """A socket of its own for what `descriptor` is; an OSError if that is no socket."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
