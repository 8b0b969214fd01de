"""Soaks `booru-embed serve` in valid and bad requests and watches its memory: ``python -m benchmarks.soak``.

Clients on the loopback device send searches, completions, captions to fill and to embed, and requests that are wrong in
many ways. Resident memory is read every second. It may grow while the first minute fills caches; from then on its slope
has to stay below 1 MB per minute, and at the end no descriptor is left over. ``--minutes`` and ``--checkpoint`` are
options.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks._results import write
from benchmarks.serving import cpu_seconds, wait_until_ready

NUM_CLIENTS: Final = 8
WARM_UP_SECONDS: Final = 60
MAX_SLOPE: Final = 1.0
"""MB per minute."""
_SETTLE_SECONDS: Final = 20
"""After the last request: longer than the server keeps an idle connection."""
_SEED: Final = 7


@dataclass
class Watched:
    """What is read of the server once a second."""

    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def read(self, pid: int, start: float) -> None:
        """Reads the process `pid` now."""
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        self.seconds.append(time.monotonic() - start)
        self.megabytes.append(int(resident.split()[1]) / 1024)
        self.descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))

    def slope(self) -> float:
        """MB per minute after the warm-up, by least squares."""
        seconds, megabytes = np.array(self.seconds), np.array(self.megabytes)
        is_late = seconds >= WARM_UP_SECONDS
        if is_late.sum() < 2:
            return float("nan")
        return float(np.polyfit(seconds[is_late] / 60, megabytes[is_late], 1)[0])


@dataclass(frozen=True)
class Mixer:
    """Makes up requests, valid ones and bad ones, from the tags of the model."""

    tags: list[str]
    post_ids: list[int]
    numbers: random.Random

    def request(self) -> tuple[str, bytes]:
        """The name of a kind of request, and its bytes."""
        make = self.numbers.choice(_VALID if self.numbers.random() < 0.7 else _BAD)
        return make.__name__.lstrip("_"), make(self)

    def caption(self, most: int = 40) -> str:
        """A caption with weights, unknown tags and other spellings in it."""
        numbers = self.numbers
        chosen = [numbers.choice(self.tags) for _ in range(numbers.randrange(most))]
        spelled = [numbers.choice((tag, tag, tag.replace("_", " "), f"({tag}:1.2)", f"{tag}x")) for tag in chosen]
        return numbers.choice((", ", " ")).join(spelled)


def _post(path: str, body: Any, *headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST /api/{path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}", *headers]
    if not any(header.lower().startswith("content-type") for header in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def _get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers]).encode() + b"\r\n\r\n"


def _complete(mixer: Mixer) -> bytes:
    prefix = mixer.numbers.choice(mixer.tags)[: mixer.numbers.randrange(8)]
    asked = {"tags": mixer.caption(200), "k": mixer.numbers.randrange(1, 201), "prefix": prefix}
    return _post(
        "complete",
        {**asked, "banned": [f"*{mixer.numbers.choice(mixer.tags)[:3]}*"] if mixer.numbers.random() < 0.3 else []},
    )


def _fill(mixer: Mixer) -> bytes:
    return _post(
        "fill", {"tags": mixer.caption(), "n": mixer.numbers.randrange(20), "seed": mixer.numbers.randrange(99)}
    )


def _embed(mixer: Mixer) -> bytes:
    captions = [mixer.caption(120) + f" {mixer.tags[0]}" for _ in range(mixer.numbers.choice((1, 2, 7, 60)))]
    return _post("embed", {"captions": captions})


def _similar(mixer: Mixer) -> bytes:
    return _post("similar", {"tag": mixer.numbers.choice(mixer.tags), "k": mixer.numbers.randrange(1, 50)})


def _search(mixer: Mixer) -> bytes:
    one, two = mixer.numbers.choice(mixer.tags), mixer.numbers.choice(mixer.tags)
    forms = (
        mixer.caption(10),
        f"( {one} ~ {two} ) -{two} rating:g",
        f"{one} - {two}",
        f"*{one[:2]}* score:>1",
    )
    return _post("search", {"tags": mixer.numbers.choice(forms), "k": mixer.numbers.randrange(1, 100)})


def _search_by_id(mixer: Mixer) -> bytes:
    return _post("search", {"tags": f"id:{mixer.numbers.choice(mixer.post_ids)}", "k": 5})


def _pages(mixer: Mixer) -> bytes:
    paths = ("/", "/api/docs", "/api/openapi.json", "/api/info", "/api/ready", "/static/page-style.css", "/api/map")
    return _get(mixer.numbers.choice(paths), mixer.numbers.choice(("Accept-Encoding: gzip", "Accept: */*")))


def _no_json(mixer: Mixer) -> bytes:
    return _post("complete", mixer.numbers.choice((b"", b"{", b"[" * 5000, b'{"tags": NaN}', b"\xff\xfe", b"null")))


def _no_content_type(mixer: Mixer) -> bytes:
    return _post("complete", {"tags": mixer.tags[0]}, "Content-Type: text/plain")


def _wrong_values(mixer: Mixer) -> bytes:
    wrong = ({"k": -1}, {"tags": 5}, {"rating": "x"}, {"nope": 1}, {"tags": "x" * 20_000}, {"k": 10**400})
    return _post(mixer.numbers.choice(("complete", "search", "fill")), mixer.numbers.choice(wrong))


def _hostile_text(mixer: Mixer) -> bytes:
    unit = mixer.numbers.choice(
        (" ", "(", ")", "|", "-", '"', ":", ",", "1", "*", "~ ", "a:", "::", "\\", "[", "\n", "id:1 ")
    )
    return _post(mixer.numbers.choice(("search", "complete")), {"tags": (unit * 9_999)[:9_999]})


def _unknown_tags(mixer: Mixer) -> bytes:
    return _post("search", {"tags": f"-{mixer.numbers.random()}", "required": [str(mixer.numbers.random())]})


def _large_body(_mixer: Mixer) -> bytes:
    return _post("embed", b" " * 1_000_001)


def _large_headers(_mixer: Mixer) -> bytes:
    return _get("/api/info", f"X-Large: {'x' * 200_000}")


def _other_host(_mixer: Mixer) -> bytes:
    return _get("/api/info").replace(b"localhost", b"rebound.example")


def _no_http(mixer: Mixer) -> bytes:
    return mixer.numbers.randbytes(200) + b"\r\n\r\n"


def _cut_off(mixer: Mixer) -> bytes:
    whole = _complete(mixer)
    return whole[: mixer.numbers.randrange(1, len(whole))]


def _nowhere(mixer: Mixer) -> bytes:
    return _get(
        mixer.numbers.choice(
            ("/api/nothing", "/static/../../etc/passwd", "/api/complete", "/%00", "/static/%2e%2e/app.py")
        )
    )


_Maker = Callable[[Mixer], bytes]
_VALID: Final[tuple[_Maker, ...]] = (_complete, _fill, _embed, _similar, _search, _search_by_id, _pages)
_BAD: Final[tuple[_Maker, ...]] = (
    _no_json,
    _no_content_type,
    _wrong_values,
    _hostile_text,
    _unknown_tags,
    _large_body,
    _large_headers,
    _other_host,
    _no_http,
    _cut_off,
    _nowhere,
)


async def _client(port: int, mixer: Mixer, until: float, found: Counter[str]) -> None:
    """Sends one request after another; keeps its connection for some, and breaks it off in the middle of others."""
    writer, numbers = None, mixer.numbers
    while time.monotonic() < until:
        name, request = mixer.request()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            if name == "cut_off" or numbers.random() < 0.02:
                raise ConnectionError
            async with asyncio.timeout(60):
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if b"content-length: " in head:
                    await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                elif b"chunked" in head:
                    await reader.readuntil(b"0\r\n\r\n")
            found[f"{name} {head.split()[1].decode()}"] += 1
            is_over = b"connection: close" in head or numbers.random() < 0.2
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            found[f"{name} broken off"] += 1
            is_over = True
        if is_over and writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            writer = None
    if writer is not None:
        writer.close()


async def _soak(port: int, pid: int, mixer: Mixer, seconds: float) -> tuple[Watched, Counter[str]]:
    watched, found, start = Watched(), Counter[str](), time.monotonic()
    clients = [
        asyncio.create_task(
            _client(port, replace(mixer, numbers=random.Random(_SEED + number)), start + seconds, found)
        )
        for number in range(NUM_CLIENTS)
    ]
    while not all(client.done() for client in clients):
        watched.read(pid, start)
        await asyncio.sleep(1)
    await asyncio.gather(*clients)
    return watched, found


def _mixer(port: int) -> Mixer:
    def ask(path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/{path}", content, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    return Mixer(ask("map")["tags"], [post["post_id"] for post in ask("search", {"k": 200})["posts"]], random.Random())


def main(checkpoint: Path = Path("data/warehouse/checkpoint/current"), minutes: float = 10) -> bool:
    """Prints and writes memory, descriptors and answers; whether memory stays flat and nothing is left over."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from booru_embed_core.cli.main import main; main()",
        "serve",
        "-c",
        str(checkpoint),
    ]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        wait_until_ready(port)
        mixer = _mixer(port)
        time.sleep(_SETTLE_SECONDS)
        before = len(os.listdir(f"/proc/{server.pid}/fd"))
        watched, found = asyncio.run(_soak(port, server.pid, mixer, 60 * minutes))
        time.sleep(_SETTLE_SECONDS)
        after = len(os.listdir(f"/proc/{server.pid}/fd"))
        used = cpu_seconds(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    failed = sum(count for answer, count in found.items() if answer.split()[-1].startswith("5"))
    figures = {
        "minutes": minutes,
        "num_requests": found.total(),
        "answers": dict(sorted(found.items())),
        "answers_5xx": failed,
        "megabytes_at_start": round(watched.megabytes[0], 1),
        "megabytes_after_one_minute": round(watched.megabytes[min(WARM_UP_SECONDS, len(watched.megabytes) - 1)], 1),
        "megabytes_at_end": round(watched.megabytes[-1], 1),
        "megabytes_at_most": round(max(watched.megabytes), 1),
        "megabytes_per_minute": round(watched.slope(), 3),
        "megabytes_each_minute": [round(value, 1) for value in watched.megabytes[::60]],
        "descriptors_before": before,
        "descriptors_at_most": max(watched.descriptors),
        "descriptors_after": after,
        "server_cpu_seconds": round(used, 1),
        "exit_code": server.returncode,
    }
    print(json.dumps(figures, indent=2))
    write("soak", figures)
    return not failed and after <= before and watched.slope() < MAX_SLOPE


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long; the slope needs more than one")
    parser.add_argument("--checkpoint", type=Path, default=Path("data/warehouse/checkpoint/current"))
    options = parser.parse_args()
    sys.exit(
        0 if main(options.checkpoint, options.minutes) else "memory grows, descriptors are left, or an answer is a 5xx"
    )
