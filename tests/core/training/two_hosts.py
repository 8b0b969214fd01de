"""Two machines on one: network namespaces with an address each, joined by a cable that can be cut."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from booru_embed_core.evaluation.checkpoint_evaluation import evaluate_checkpoint
from booru_embed_core.search import build
from booru_embed_core.settings import EvaluationSettings, ModelSettings, TrainingSettings
from booru_embed_core.training import lifeline, loop, step, torchrun
from booru_embed_core.training.distributed import RankLostError, joined_ranks
from tests.core.search_helpers import PART_POSTS

ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29_500
SILENT_SECONDS = 4
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Hosts:
    """The names of two namespaces, whose interfaces have the same names."""

    names: tuple[str, str]

    def link(self, state: str) -> None:
        """Cuts the cable, ``down``, or mends it, ``up``."""
        ip("-n", self.names[1], "link", "set", self.names[1], state)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Skips the test where namespaces are not allowed; they are removed in any case."""
    if shutil.which("ip") is None:
        pytest.skip("two hosts: there is no program ip; install iproute2")
    names = (f"be{os.getpid()}a", f"be{os.getpid()}b")
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"two hosts: network namespaces are not allowed here: {error.stderr.strip()}")
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            for interface in ("lo", name):
                ip("-n", name, "link", "set", interface, "up")
        yield Hosts(names)
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


def host(name: str, number: int, job_file: str) -> None:
    """torchrun on the machine `name`, in a fork with torch imported, as its rank is forked from it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/var/run/netns/{name}") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    job = Path(job_file)
    log = os.open(job.with_name(f"{job.stem}-host-{number}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, sys.stderr.fileno())
    os.environ.update({"GLOO_SOCKET_IFNAME": name, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    lifeline.SILENT_SECONDS = torchrun.SILENT_SECONDS = SILENT_SECONDS  # type: ignore[misc,attr-defined]
    config = LaunchConfig(
        min_nodes=2,
        max_nodes=2,
        nproc_per_node=1,
        run_id="two-hosts",
        rdzv_endpoint=f"{ADDRESSES[0]}:{PORT}",
        rdzv_backend="c10d",
        rdzv_configs={"is_host": number == 0},
        max_restarts=0,
        monitor_interval=0.1,
        start_method="fork",
        local_addr=ADDRESSES[number],
    )
    torchrun.torchrun = partial(elastic_launch(config, rank), job_file)  # type: ignore[attr-defined]
    torchrun.main()


def rank(job_file: str) -> None:
    """Trains, embeds the posts, or evaluates, as one rank, which may wait for a cut of the cable in the middle."""
    job = json.loads(Path(job_file).read_text())
    calls = iter(range(1, 1_000_000))
    signal.signal(signal.SIGTERM, lambda *_: None)  # as the worker: torchrun sends it when it has lost the other one

    def paused(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            if next(calls) == job["pause_at"]:
                Path(job["notes"], f"paused-{os.environ['RANK']}").touch()
                while not Path(job["notes"], "cut").exists():
                    time.sleep(0.02)
                if "training" not in job:  # no collective waits: the next part is asked for when the cut is known
                    time.sleep(SILENT_SECONDS + 3)
            return function(*arguments)

        return call

    packed, vocab, work, out = (Path(job[name]) for name in ("packed", "vocab", "work", "out"))
    loop.compute_step = paused(step.compute_step)  # type: ignore[attr-defined,assignment]
    build._write_part = paused(build._write_part)  # type: ignore[assignment]
    build.PART_POSTS = PART_POSTS  # type: ignore[misc]
    try:
        if "training" in job:
            model = ModelSettings.model_validate(job["model"])
            loop.train(packed, vocab, work, out, model, TrainingSettings.model_validate(job["training"]))
            return
        with joined_ranks() as ranks:
            if "evaluation" in job:
                settings = EvaluationSettings.model_validate_json(job["evaluation"])
                evaluate_checkpoint(Path(job["checkpoint"]), packed, out, work, settings, "cpu", lambda _: None, ranks)
                return
            made_of = (Path(job["checkpoint"]), packed)
            if ranks.is_first:
                build.index_posts(*made_of, out, work, "cpu", "fp32", lambda _: None, ranks)
            else:
                build.help_to_index(*made_of, work, ranks, "cpu", "fp32", lambda _: None)
    except RankLostError as error:
        sys.stderr.write(f"RankLostError: {error}\n")
        sys.exit(1)
