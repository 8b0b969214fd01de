"""What is being read, told now and then while it takes long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

SECONDS: Final = 5.0


class Progress:
    """Tells the first file, and from then on, at most once in `SECONDS`, the file and how many posts were read.

    Args:
        say: takes one line.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._told_at: float | None = None

    def update(self, label: str, num_read: int) -> None:
        """Takes note that `num_read` posts of all files were read, and that the file `label` is being read."""
        now = time.monotonic()
        if self._told_at is None:
            self._say(f"reading {label}")
        elif now - self._told_at >= SECONDS:
            self._say(f"reading {label}, {num_read:,} posts so far")
        else:
            return
        self._told_at = now


def silent(_: str) -> None:
    """Says nothing."""
