"""A rank that is gone is noticed by every other one, and a farewell is no loss."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from torch._C._distributed_c10d import TCPStore

from booru_embed_core.training.lifeline import Lifeline, _loss, end_connections, lifeline, tcp_connections

SECONDS = 20
"""What must happen soon has this long."""


@pytest.fixture
def store() -> Any:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def joined(store: Any, num_ranks: int, ends: dict[int, Callable[[Lifeline], object]]) -> dict[int, list[str]]:
    """The losses that each of `num_ranks` ranks noticed before `ends` of it, or the loss, ended its block."""
    noticed: dict[int, list[str]] = {rank: [] for rank in range(num_ranks)}
    left: list[threading.Barrier] = [threading.Barrier(num_ranks)]

    def take_part(rank: int) -> None:
        told: queue.Queue[None] = queue.Queue()
        address = ("127.0.0.1", store.port)
        with lifeline(
            store.clone(), address, rank, num_ranks, timedelta(seconds=SECONDS), lambda: told.put(None)
        ) as line:
            left[0].wait(SECONDS)
            if rank in ends:
                ends[rank](line)
            else:
                told.get(timeout=SECONDS)
                noticed[rank].append(str(line.loss))

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SECONDS)
    return noticed


def test_all_notice_the_first_rank_s_end_and_it_notices_that_of_another(store: Any) -> None:
    def break_off(line: Lifeline) -> None:
        for connection in line._connections.values():
            connection.shutdown(socket.SHUT_RDWR)

    lost = joined(store, 3, {2: break_off})
    assert lost[0] == ["rank 2 at 127.0.0.1 ended"]
    assert lost[1] == ["rank 0 at 127.0.0.1 ended"]  # which has left because of rank 2


def test_a_rank_that_leaves_in_order_is_not_lost(store: Any) -> None:
    others_left = threading.Event()
    waiting: dict[int, Callable[[Lifeline], object]] = {
        0: lambda line: (others_left.wait(SECONDS), line.loss is None or pytest.fail(line.loss)),
        1: lambda _: others_left.set(),
    }
    assert joined(store, 2, waiting) == {0: [], 1: []}


def test_a_silent_machine_is_told_from_an_ended_rank() -> None:
    def unanswered(_: object, __: int) -> bytes:
        raise TimeoutError

    assert _loss(type("Cut", (), {"recv": unanswered})()) == "has not answered for 20 s"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far = server.accept()[0]
        with near, far:
            yield near, far


def test_the_connections_of_this_process_are_found_and_nothing_stays_open(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with socket.create_server(("127.0.0.1", 0)) as listening, open(os.devnull) as file:
        names = {one.getsockname() for one in tcp_connections()}
        assert {one.getsockname() for one in pair} <= names
        assert listening.getsockname() not in names
        assert not file.closed
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_waits_for_a_connection_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    received: queue.Queue[bytes] = queue.Queue()
    waiting = threading.Thread(target=lambda: received.put(near.recv(1)))
    waiting.start()
    end_connections()
    assert received.get(timeout=SECONDS) == b""
    waiting.join()
