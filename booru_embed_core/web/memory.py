"""Memory of a process that serves for weeks: what is freed goes back to the system.

Requests of very different sizes in several threads leave glibc's arenas full of holes, and resident memory creeps up.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import Final

TRIM_SECONDS: Final = 1.0
_MAX_ARENAS: Final = 2
_M_ARENA_MAX: Final = -8
"""The parameter of glibc's ``mallopt``."""


def give_back_memory() -> bool:
    """Starts a thread that returns freed memory every second; False where the C library is not glibc."""
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if libc is None or not hasattr(libc, "malloc_trim"):
        return False
    libc.mallopt(_M_ARENA_MAX, _MAX_ARENAS)

    def run() -> None:
        while True:
            time.sleep(TRIM_SECONDS)
            libc.malloc_trim(0)

    threading.Thread(target=run, daemon=True, name="memory").start()
    return True
