"""`booru-embed serve`: it answers when it says so, ends in good order, and names what keeps it from serving."""

from __future__ import annotations

import functools
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.core.cli_helpers import Run
from tests.core.model_helpers import Trained
from tests.core.web.warehouse_helpers import SECONDS, Warehouse, call, wait_until

SERVE = [sys.executable, "-c", "from booru_embed_core.cli.main import main; main()", "serve"]


@pytest.mark.slow
def test_a_server_follows_its_warehouse_and_ends_with_zero_when_terminated(warehouse: Warehouse) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    warehouse.move("checkpoint", "v2")
    command = [
        *SERVE,
        "--checkpoint",
        str(warehouse.checkpoint),
        "--port",
        str(port),
        "--allow-origin",
        "http://a.example",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            wait_until(lambda: status(f"{url}/api/ready") == 200)
            assert len(call(f"{url}/api/complete", {"tags": "1girl", "k": 3})["completions"]) == 3
            wait_until(lambda: len(call(f"{url}/api/info")["left_out"]) == 2)  # completions answer before that
            info = call(f"{url}/api/info")
            assert info["checkpoint"] == "v2"
            assert [one["what"] for one in info["left_out"]] == ["posts", "map"]
            warehouse.move("checkpoint", "v1")
            wait_until(lambda: call(f"{url}/api/info")["checkpoint"] == "v1")
            assert call(f"{url}/api/info")["left_out"] == []
            asks = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
            preflight = urllib.request.Request(f"{url}/api/complete", headers=asks, method="OPTIONS")
            with urllib.request.urlopen(preflight, timeout=SECONDS) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == "http://a.example"
            elsewhere = urllib.request.Request(f"{url}/api/health", headers={"Host": "rebound.example"})
            with pytest.raises(urllib.error.HTTPError, match="421"):
                urllib.request.urlopen(elsewhere, timeout=SECONDS)
            server.send_signal(signal.SIGTERM)
            output, _ = server.communicate(timeout=30)
        finally:
            server.kill()
    assert output.startswith(f"booru-embed on {url} ")
    assert [line.split(": ")[:2] for line in output.splitlines()[1:-1]] == [["left out", "posts"], ["left out", "map"]]
    assert output.endswith("checkpoint v1 answers now\n")
    assert server.returncode == 0


def status(url: str) -> int:
    """The status of `url`; 0 if nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0


@pytest.fixture
def run_serve(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`booru-embed serve` in this process, up to what stops it before it serves."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the command sets it; monkeypatch takes it back
    monkeypatch.setattr("uvicorn.Server.run", lambda *_args, **_kwargs: pytest.fail("it serves"))
    return functools.partial(run, "serve")


def test_a_folder_that_is_no_checkpoint_is_named_before_anything_is_served(run_serve: Run, tmp_path: Path) -> None:
    assert run_serve("--checkpoint", tmp_path).failed(1).startswith(f"{tmp_path}/config.json: no such file")


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_an_address_that_cannot_be_had_is_named_with_the_remedy(run_serve: Run, trained: Trained, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = run_serve("--checkpoint", trained.checkpoint, "--host", host, "--port", port).failed(1)
    assert message.startswith(f"cannot listen on {host}, port {port}: ")
    assert message.endswith("; choose another with --host or --port")


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("127.0.0.1:7860", "'127.0.0.1:7860' is not an origin; give scheme://host[:port]"),
        ("http://127.0.0.1:port", "is not an origin"),
        ("http://127.0.0.1:7860/", "browsers send http://127.0.0.1:7860; give that"),
        ("HTTP://Example.org", "browsers send http://example.org; give that"),
        ("https://example.org:443", "browsers send https://example.org; give that"),
        ("http://[::1]:7860/page", "browsers send http://[::1]:7860; give that"),
        ("", "is not an origin"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(
    run_serve: Run, trained: Trained, origin: str, message: str
) -> None:
    found = run_serve("--checkpoint", trained.checkpoint, "--allow-origin", "*", "--allow-origin", origin).failed(2)
    assert "--allow-origin" in found
    assert message in found


@pytest.mark.parametrize("host", ["", " ", "\t"])
def test_an_empty_host_is_refused(run_serve: Run, trained: Trained, host: str) -> None:
    """A script's unset variable would listen on all addresses."""
    message = run_serve("--checkpoint", trained.checkpoint, "--host", host).failed(2)
    assert "--host" in message
    assert "give 127.0.0.1 for this machine alone, or 0.0.0.0 for all others too" in message


@pytest.mark.parametrize("name", ["", " ", "http://tags.example", "tags.example:80", "a/b", "a,b", "*.example", "[::1"])
def test_a_name_that_no_request_has_is_refused(run_serve: Run, trained: Trained, name: str) -> None:
    message = run_serve("--checkpoint", trained.checkpoint, "--allow-host", name).failed(2)
    assert "--allow-host" in message
    assert "is not a host" in message
