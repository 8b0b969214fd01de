"""Freed memory goes back to the system, in a process of its own: arenas are never merged again."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAGMENTED = """
import threading, time
import booru_embed_core.web.memory as memory
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
