"""`booru-embed serve`: it answers when it says so, ends in good order, and names what keeps it from serving."""

from __future__ import annotations

import functools
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from booru_embed_core.cli.serve import load
from tests.core.cli_helpers import Run
from tests.core.model_helpers import Trained

SERVE = [sys.executable, "-c", "from booru_embed_core.cli.main import main; main()", "serve"]
SECONDS = 120


@pytest.mark.slow
def test_a_terminated_server_ends_with_zero_after_it_has_answered(trained: Trained) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*SERVE, "--checkpoint", str(trained.checkpoint), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            deadline = time.monotonic() + SECONDS
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/ready", timeout=10).close()
                    break
                except urllib.error.URLError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            body = json.dumps({"tags": "1girl", "k": 3}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/complete", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert len(json.load(answer)["completions"]) == 3
            server.send_signal(signal.SIGTERM)
            output, _ = server.communicate(timeout=30)
        finally:
            server.kill()
    assert output.startswith(f"booru-embed on http://127.0.0.1:{port} ")
    assert server.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in output


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


def test_posts_are_served_where_they_are_named(trained: Trained, search_folder: Path) -> None:
    found = load(trained.checkpoint, search_folder, None)
    assert found.posts is not None
    assert found.posts.num_posts == trained.corpus.packed.num_posts
    assert found.tag_map is not None
    assert load(trained.checkpoint, None, None).posts is None
