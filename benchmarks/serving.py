"""Measures completions over HTTP: `booru-embed serve` with 130,000 tags, captions of 30 tags, 32 clients.

The server has the sample's network, untrained, which costs the same, and invented names, one in five with an alias. The
clients are keep-alive connections of another process on the same machine. First they send 200 requests per second in
total without waiting for answers: captions alone, then captions with what somebody types of the next tag, of which one
in eight has a typo. At last each sends its next request when it has an answer. Every phase takes `SECONDS` over the
loopback device.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._corpus_names import NumNames, make_names
from benchmarks._results import write
from benchmarks.embedding import untrained_embedder
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.schema import CATEGORIES, NUM_CATEGORIES, Category
from booru_embed_core.settings import ModelSettings
from booru_embed_core.tags.build import save_vocab
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.checkpoint import save_checkpoint

NUM_TAGS: Final = 130_000
CAPTION_TAGS: Final = 30
NUM_CLIENTS: Final = 32
RATE: Final = 200
SECONDS: Final = 20
_START_SECONDS: Final = 120


def main() -> None:
    """Prints and writes latencies, requests per second, and the CPU seconds of server and clients."""
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        save_untrained(Path(folder))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-c", "from booru_embed_core.cli.main import main; main()", "serve", "-c", folder]
        server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
        try:
            wait_until_ready(port)
            figures = {}
            for name, rate in (("steady", RATE), ("typing", RATE), ("flat out", None)):
                before = cpu_seconds(server.pid)
                with get_context("spawn").Pool(1) as clients:
                    figures[name] = clients.apply(ask, (port, rate, name == "typing"))
                figures[name]["server_cpu_seconds"] = round(cpu_seconds(server.pid) - before, 2)
                print(f"{name}: {figures[name]}", flush=True)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    settings = {"num_tags": NUM_TAGS, "caption_tags": CAPTION_TAGS, "num_clients": NUM_CLIENTS, "seconds": SECONDS}
    write("serving", {**settings, "rate": RATE, "load_average_before": round(load_before, 2), "figures": figures})


def save_untrained(folder: Path) -> None:
    """Writes a checkpoint of the default network for `NUM_TAGS` tags with tag frequencies that follow Zipf's law."""
    sizes = [NUM_TAGS - 4 * (NUM_TAGS // 8), *[NUM_TAGS // 8] * (NUM_CATEGORIES - 1)]
    categories = np.repeat(np.arange(NUM_CATEGORIES, dtype=np.uint8), sizes)
    counts = np.concatenate([1_000_000 // np.arange(1, size + 1) for size in sizes])
    vocab = Vocab(tags := tag_names(), categories, counts, aliases=_aliases(tags, categories))
    (folder / "vocab").mkdir()
    save_vocab(vocab, folder / "vocab")
    untrained = untrained_embedder(vocab, ModelSettings(), "cpu", torch.float32)
    assert isinstance(untrained.network, TorchNetwork)
    save_checkpoint(folder, untrained.network.model, untrained.config, folder / "vocab")


@cache
def tag_names() -> tuple[str, ...]:
    """`NUM_TAGS` invented names, category after category."""
    other = NUM_TAGS // 8
    sizes = NumNames(general=NUM_TAGS - 4 * other, artist=other, copyright=other, character=other, meta=other)
    return tuple(tag for names in make_names(sizes, 7).values() for tag in names)


def _aliases(tags: tuple[str, ...], categories: NDArray[np.uint8]) -> dict[Category, dict[str, str]]:
    """A second name of every fifth tag."""
    aliases: dict[Category, dict[str, str]] = {category: {} for category in CATEGORIES}
    for index in range(0, len(tags), 5):
        aliases[CATEGORIES[categories[index]]][f"old_{tags[index]}"] = tags[index]
    return aliases


def wait_until_ready(port: int) -> None:
    """Waits until the server has loaded the model."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/ready", timeout=10).close()
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(port: int, rate: int | None, is_typing: bool) -> dict[str, Any]:
    """Figures of `NUM_CLIENTS` connections over `SECONDS`, at `rate` requests per second in total, or at full speed."""
    return asyncio.run(_ask(port, rate, is_typing))


def _typed(tag: str, numbers: np.random.Generator) -> str:
    """The beginning of `tag` or of its last word, one in eight with two letters in the wrong order."""
    word = tag.rpartition("_")[2] if numbers.random() < 0.25 else tag
    typed = word[: int(numbers.integers(1, max(2, min(10, len(word)))))]
    if numbers.random() < 0.125 and len(tag) > 3:
        return tag[:2] + tag[3] + tag[2] + tag[4:]
    return typed


async def _ask(port: int, rate: int | None, is_typing: bool) -> dict[str, Any]:
    numbers, bodies, names = np.random.default_rng(7), [], tag_names()
    for _ in range(500):
        caption = " ".join(names[i] for i in numbers.choice(NUM_TAGS, CAPTION_TAGS, replace=False).tolist())
        typed = {"prefix": _typed(names[int(numbers.integers(NUM_TAGS))], numbers)[:200]} if is_typing else {}
        bodies.append(json.dumps({"tags": caption, "k": 10, **typed}).encode())
    seconds: list[float] = []
    start = time.perf_counter() + 0.5
    await asyncio.gather(*(_client(port, rate, number, bodies, start, seconds) for number in range(NUM_CLIENTS)))
    took = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    p50, p95, p99 = (round(1000 * float(value), 1) for value in np.percentile(seconds, [50, 95, 99]))
    return {
        "num_requests": len(seconds),
        "requests_per_second": round(len(seconds) / took, 1),
        "p50_milliseconds": p50,
        "p95_milliseconds": p95,
        "p99_milliseconds": p99,
        "client_cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
    }


async def _client(
    port: int, rate: int | None, number: int, bodies: list[bytes], start: float, seconds: list[float]
) -> None:
    """One connection; with a `rate`, latency counts from when the request was due, so that it includes all waiting."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    turn = 0
    while True:
        due = start + (number + turn * NUM_CLIENTS) / rate if rate else max(start, time.perf_counter())
        if due >= start + SECONDS:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        body = bodies[(number + turn * NUM_CLIENTS) % len(bodies)]
        head = b"POST /api/complete HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d"
        writer.write(head % len(body) + b"\r\n\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        seconds.append(time.perf_counter() - due)
        turn += 1
    writer.close()


if __name__ == "__main__":
    main()
