"""Stages of the full-scale benchmark: export, serve, the page, complete."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks._full_scale import Place, Stage, folder_bytes
from booru_embed_core.filesystem import remove
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.checkpoint_config import CONFIG_FILE

RATE: Final = 100
"""Requests a second, for half of the seconds with the beginning of a tag, the others in columns as the page asks."""
SECONDS: Final = 20
_CLIENTS: Final = 32
_CAPTION_TAGS: Final = 30
_START_SECONDS: Final = 600


def _checkpoint(place: Place) -> Path:
    """The warehouse's checkpoint; an untrained one with its vocabulary where it has none."""
    current = place.settings.warehouse_path / "checkpoint/current"
    if (current / CONFIG_FILE).exists():
        return current.resolve()
    folder = place.scratch / "serving/checkpoint/untrained"
    if (folder / CONFIG_FILE).exists():
        return folder
    import torch

    from benchmarks.embedding import untrained_embedder
    from booru_embed_core.embedder.torch_network import TorchNetwork
    from booru_embed_core.training.checkpoint import save_checkpoint

    vocab_dir, tokens = place.current("vocab"), place.current("packed_tokens")
    untrained = untrained_embedder(Vocab.load(vocab_dir), place.settings.model, "cpu", torch.float32)
    assert isinstance(untrained.network, TorchNetwork)
    folder.mkdir(parents=True)
    config = untrained.config.model_copy(update={"packed_tokens": tokens.name})
    save_checkpoint(folder, untrained.network.model, config, vocab_dir)
    beside = folder.parents[1] / "packed_tokens"
    beside.mkdir(exist_ok=True)
    (beside / tokens.name).symlink_to(tokens)
    return folder


def _command(*arguments: str | Path) -> list[str]:
    program = "from booru_embed_core.cli.main import main; main()"
    return [sys.executable, "-c", program, *map(str, arguments)]


def _export_onnx(place: Place) -> dict[str, Any]:
    output = place.scratch / "onnx"
    remove(output)
    command = _command("export", "onnx", "-c", _checkpoint(place), "-o", output)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    figures = {"disk_bytes": folder_bytes(output)}
    remove(output)
    return figures


def _complete(place: Place) -> dict[str, Any]:
    checkpoint = _checkpoint(place)
    tag = Vocab.load(checkpoint).tags[0]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(_command("complete", "-c", checkpoint, tag), check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_seconds": round(seconds, 2), "peak_mb": round(after.ru_maxrss * 1024 / 1e6)}


@contextmanager
def _server(place: Place) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server that starts, and where its API is."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = _command("serve", "-c", _checkpoint(place), "--port", str(port))
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def _get(url: str) -> bytes:
    """The answer as it is sent, once there is one: the server says 503 while it loads."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)  # more often would cost the server as much as its start


def _used(server: subprocess.Popen[bytes]) -> dict[str, Any]:
    from benchmarks.serving import cpu_seconds

    status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    assert peak is not None
    return {"cpu_seconds": round(cpu_seconds(server.pid), 2), "peak_mb": round(int(peak[1]) * 1024 / 1e6)}


def _serve(place: Place) -> dict[str, Any]:
    with _server(place) as (server, url):
        _get(f"{url}/api/ready")
        figures = _used(server)
        _get(f"{url}/api/map/0")
        whole = _used(server)
    return figures | {"cpu_seconds_with_map": whole["cpu_seconds"], "peak_mb_with_map": whole["peak_mb"]}


def _page(place: Place) -> dict[str, Any]:
    with _server(place) as (_, url):
        shown = [_get(f"{url}/{path}") for path in ("", "static/page.js", "static/page-style.css", "static/icon.svg")]
        info, first = _get(f"{url}/api/info"), _get(f"{url}/api/map/0")
        others = range(1, json.loads(gzip.decompress(first))["num_pieces"])
        rest = [_get(f"{url}/api/map/{number}") for number in others]
    until_drawn = sum(map(len, (*shown, info, first)))
    whole = until_drawn + sum(map(len, rest))
    return {"page_mb": round(whole / 1e6, 2), "page_mb_until_drawn": round(until_drawn / 1e6, 2)}


def _completions(place: Place) -> dict[str, Any]:
    tags = Vocab.load(_checkpoint(place)).tags
    with _server(place) as (server, url):
        _get(f"{url}/api/map/0")
        before = _used(server)["cpu_seconds"]
        seconds = asyncio.run(_asked(int(url.rpartition(":")[2]), tags))
        used = _used(server)
    p50, p95 = (round(1000 * float(value), 1) for value in np.percentile(seconds, [50, 95]))
    used["cpu_seconds"] = round(used["cpu_seconds"] - before, 2)
    return used | {"rows": len(seconds), "p50_ms": p50, "p95_ms": p95}


async def _asked(port: int, tags: tuple[str, ...]) -> list[float]:
    numbers, bodies = np.random.default_rng(7), []
    for number in range(200):
        caption = " ".join(tags[index] for index in numbers.choice(len(tags), _CAPTION_TAGS, replace=False).tolist())
        typed = tags[int(numbers.integers(len(tags)))][: int(numbers.integers(1, 8))]
        more: dict[str, Any] = {"prefix": typed} if number % 2 else {"per_category": True}
        bodies.append(json.dumps({"tags": caption, "k": 10, **more}).encode())
    seconds: list[float] = []
    start = time.perf_counter() + 0.5
    await asyncio.gather(*(_client(port, number, bodies, start, seconds) for number in range(_CLIENTS)))
    return seconds


async def _client(port: int, number: int, bodies: list[bytes], start: float, seconds: list[float]) -> None:
    """One connection; latency counts from when a request was due, so that it includes all waiting."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for turn in range(number, RATE * SECONDS, _CLIENTS):
        due = start + turn / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        body = bodies[turn % len(bodies)]
        head = b"POST /api/complete HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d"
        writer.write(head % len(body) + b"\r\n\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        await reader.readexactly(int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        seconds.append(time.perf_counter() - due)
    writer.close()


STAGES: Final[tuple[Stage, ...]] = (
    Stage(
        "export onnx",
        _export_onnx,
        _checkpoint,
        {"cpu_seconds": 90},
        {"cpu_seconds": 905, "peak_mb": 2600, "disk_bytes": 486_000_000},
    ),
    Stage("complete", _complete, _checkpoint, {"cpu_seconds": 1.5}, {"cpu_seconds": 4.6, "peak_mb": 1100}),
    Stage(
        "serve",
        _serve,
        _checkpoint,
        {"cpu_seconds": 5, "peak_mb": 600, "peak_mb_with_map": 600},
        {"cpu_seconds": 15.4, "peak_mb": 1800},
    ),
    Stage("page", _page, _checkpoint, {"page_mb": 3}, {"page_mb": 4.75}),
    Stage("completions", _completions, _checkpoint, {"p95_ms": 30}, {"p95_ms": 43}),
)
