"""Memory of a process that computes for long: what libraries keep is bounded, what is freed goes back to the system.

Only the standard library, since torch reads its bounds from the environment of a process that has not computed yet.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import MutableMapping
from typing import Final

_KEPT_SHAPES: Final = 16
KEPT_PRODUCTS: Final = 64
TRIM_SECONDS: Final = 1.0
_MAX_ARENAS: Final = 2
_MAPPED_BYTES: Final = 4 << 20
"""Blocks from this size on go back as soon as they are freed. By default the limit rises with each of them to 32 MB,
and what is smaller leaves holes."""
_KEPT_BYTES: Final = 16 << 20
_M_ARENA_MAX: Final = -8
_M_MMAP_THRESHOLD: Final = -3
_M_TRIM_THRESHOLD: Final = -1
"""Parameters of glibc's ``mallopt``."""


def bound_kept_shapes(num_products: int = KEPT_PRODUCTS, environment: MutableMapping[str, str] = os.environ) -> None:
    """Bounds the prepared products in bf16 that torch and oneDNN keep, unless `environment` has bounds of its own.

    Captions have any number of tags, so every batch has new shapes. What is prepared for one takes up to half a
    megabyte and is hardly ever used again. torch keeps it for 1,024 shapes in every thread, oneDNN for 1,024 in the
    process. Call this before torch computes for the first time; results do not depend on it.

    Args:
        num_products: kept by oneDNN.
        environment: changed in place.
    """
    environment.setdefault("LRU_CACHE_CAPACITY", str(_KEPT_SHAPES))
    environment.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(num_products))


def give_back_memory() -> bool:
    """Starts a thread that returns freed memory every second; False where the C library is not glibc.

    Requests of very different sizes in several threads leave glibc's arenas full of holes, and resident memory creeps
    up. Arrow takes its memory there too, if it is not imported yet, since its own pool keeps what it had.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if libc is None or not hasattr(libc, "malloc_trim"):
        return False
    libc.mallopt(_M_ARENA_MAX, _MAX_ARENAS)
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)

    def run() -> None:
        while True:
            time.sleep(TRIM_SECONDS)
            libc.malloc_trim(0)

    threading.Thread(target=run, daemon=True, name="memory").start()
    return True


def trim_memory() -> None:
    """Returns what was freed to the system now, as after a network that is not needed any more."""
    gc.collect()
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
