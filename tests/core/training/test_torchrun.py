"""torchrun with connections that end when the other end is silent, and errors of one line."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousConnectionError

from booru_embed_core.training import torchrun


def test_connections_end_when_nothing_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        torchrun.limit_silence(7)
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    def fail() -> None:
        raise error

    monkeypatch.setattr(torchrun, "torchrun", fail)
    with pytest.raises(SystemExit) as ended:
        torchrun.main()
    return str(ended.value)


def test_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: Any = {3: object(), 2: object()}
    child = ChildFailedError.__new__(ChildFailedError)
    child.failures = failures
    assert fail_with(monkeypatch, child) == "torchrun: ranks 2, 3 of this machine failed; their messages stand above"
    lost = RendezvousConnectionError("the store\nhas failed")
    lost.__cause__ = ConnectionResetError("it\nwas reset")
    assert fail_with(monkeypatch, lost) == (
        "torchrun: the other machines cannot be reached (it was reset); start it again on all of them: the work "
        "resumes from what is saved"
    )
