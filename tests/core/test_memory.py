"""What is freed goes back to the system, and what is kept is bounded, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from booru_embed_core.memory import bound_kept_shapes

FRAGMENTED = """
import threading, time
import booru_embed_core.memory as memory
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
memory.TRIM_SECONDS = 0.05
blocks = [bytearray(50_000) for _ in range(2_000)]
kept, full = blocks[::50], resident()
assert memory.give_back_memory()
del blocks
for _ in range(200):
    time.sleep(0.05)
    if resident() < full - 50_000:
        print("given back")
        break
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_given_back_though_some_is_kept() -> None:
    found = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "given back\n"


SHAPES = """
import sys
from booru_embed_core.memory import bound_kept_shapes
if sys.argv[1] == "bounded":
    bound_kept_shapes()
import torch
torch.set_num_threads(1)
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
weight = torch.ones(256, 256, dtype=torch.bfloat16)
def products(sizes):
    for rows in sizes:
        torch.mm(torch.ones(rows, 256, dtype=torch.bfloat16), weight)
products(range(8, 88))
before = resident()
products(range(88, 388))
print((resident() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_shapes() -> None:
    environment = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    found = subprocess.run(
        [sys.executable, "-c", SHAPES, "bounded"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=environment,
    )
    assert int(found.stdout) < 30


def test_bounds_of_the_environment_stay() -> None:
    environment = {"LRU_CACHE_CAPACITY": "7"}
    bound_kept_shapes(100, environment)
    assert environment == {"LRU_CACHE_CAPACITY": "7", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "100"}
