"""What the fuzzed readers share: what a reader may do with an input, its time, and mutations without a fuzzer."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

MAX_MESSAGE = 1_000
SECONDS = 5.0
"""CPU time of one input of at most `Target.max_bytes`, also under a fuzzer's instruments, which slow it down."""


@dataclass(frozen=True)
class Target:
    """A reader of something that others wrote.

    Attributes:
        read: reads an input; returns or raises one of `errors`.
        seeds: inputs to begin with, most of which are read.
        words: what mutations insert.
        errors: what the reader says of an input that it refuses.
        max_bytes: the longest input that a fuzzer tries.
        change: another kind of mutation, for inputs that bytes changed at random seldom are.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...]
    errors: tuple[type[ValueError], ...]
    max_bytes: int = 4096
    change: Callable[[bytes, Random], bytes] | None = None

    def is_read(self, content: bytes) -> bool:
        """Whether `content` is read; False if it is refused, in one line.

        Raises:
            AssertionError: the line is no line, or too long.
            Exception: whatever the reader should not have raised, and what takes too long.
        """
        with cpu_limit(SECONDS):
            try:
                self.read(content)
            except self.errors as error:
                text = str(error)
                assert "\n" not in text, text
                assert 0 < len(text) <= MAX_MESSAGE, text
                return False
        return True


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Ends the block with a TimeoutError after `seconds` of this process's CPU time: others may take the CPU."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"still running after {seconds} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def mutated(content: bytes, target: Target, random: Random) -> bytes:
    """`content` with one to four changes."""
    if target.change and random.random() < 0.5:
        return target.change(content, random)
    words = target.words
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(content) + 1)
        kind = random.randrange(6)
        if kind == 0 and at < len(content):
            content = content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]
        elif kind < 3:
            content = content[:at] + random.choice(words) + content[at + random.choice((0, 0, 1, 4)) :]
        elif kind == 3:
            content = content[:at] + content[at + random.randint(1, 20) :]
        elif kind == 4:
            content = content[: at + random.randint(1, 60)] + content[at:]
        else:
            content = content[:at] + random.choice(words) * random.choice((2, 30, 300)) + content[at:]
    return content
