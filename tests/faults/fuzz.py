"""Fuzzing by coverage: ``python -m tests.faults.fuzz TARGET --minutes N``. Needs ``pip install atheris``.

A finding does not end it: each kind (the error and its line) is printed once, and its first input is written below
``--findings``. The inputs that reach something new are kept below ``--corpus``, and the next call begins with them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

from tests.faults.fuzz_cases import Target

TARGETS = {
    "captions": ("fuzz_texts", "CAPTIONS"),
    "queries": ("fuzz_texts", "QUERIES"),
    "csv": ("fuzz_exports", "CSV_SCAN"),
    "packed": ("fuzz_products", "PACKED"),
    "vocab": ("fuzz_products", "VOCAB"),
    "configs": ("fuzz_products", "CONFIGS"),
}
REPORT_SECONDS = 60.0


def target_of(name: str) -> Target:
    """The target of that name."""
    module, attribute = TARGETS[name]
    found = getattr(importlib.import_module(f"tests.faults.{module}"), attribute)
    assert isinstance(found, Target)
    return found


class Run:
    """One call: counts what became of the inputs, and tells of each kind of finding once."""

    def __init__(self, target: Target, findings: Path) -> None:
        self.target = target
        self.findings = findings
        self.outcomes: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self._started = self._told_at = time.monotonic()

    def __call__(self, content: bytes) -> None:
        """Tries one input."""
        try:
            self.outcomes["read" if self.target.is_read(content) else "refused"] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self._found(content, error)
        if time.monotonic() - self._told_at > REPORT_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Prints the counts."""
        self._told_at = time.monotonic()
        seconds = self._told_at - self._started
        sys.stdout.write(f"{seconds:.0f} s: {dict(self.outcomes)}, {len(self.kinds)} kinds of findings\n")
        sys.stdout.flush()

    def _found(self, content: bytes, error: BaseException) -> None:
        self.outcomes["found"] += 1
        told = error.__context__ if isinstance(error, AssertionError) and error.__context__ else error
        frames = [frame for frame in traceback.extract_tb(told.__traceback__) if "/tests/faults/fuzz" not in frame[0]]
        where = f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else "here"
        kind = f"{type(error).__name__} {where}" if not isinstance(error, TimeoutError) else "TimeoutError"
        self.kinds[kind] += 1
        if self.kinds[kind] > 1:
            return
        self.findings.mkdir(parents=True, exist_ok=True)
        file = self.findings / hashlib.sha256(content).hexdigest()[:12]
        file.write_bytes(content)
        sys.stdout.write(f"FOUND {kind}: {str(error)[:300]!r}; input {content[:200]!r} in {file}\n")
        traceback.print_exception(error, file=sys.stdout)
        sys.stdout.flush()


def main() -> None:
    """Fuzzes one target for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.faults.fuzz")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"))
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    try:
        import atheris
    except ModuleNotFoundError:
        parser.error("atheris is not installed; pip install atheris")
    with atheris.instrument_imports(include=["booru_embed_core", "booru_embed_dagster"], enable_loader_override=False):
        target = target_of(options.target)
    corpus = options.corpus / options.target
    corpus.mkdir(parents=True, exist_ok=True)
    for content in target.seeds():
        (corpus / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    words = corpus.with_suffix(".words")
    escaped = ["".join(rf"\x{byte:02x}" for byte in word) for word in target.words]
    words.write_text("".join(f'"{word}"\n' for word in escaped), encoding="utf-8")
    run = Run(target, options.findings / options.target)
    flags = [f"-max_total_time={60 * options.minutes:.0f}", f"-max_len={target.max_bytes}", f"-dict={words}"]
    change = target.change

    def custom(content: bytes, max_bytes: int, seed: int) -> bytes:
        random = Random(seed)
        if change is None or random.random() < 0.5:
            return bytes(atheris.Mutate(content, max_bytes))
        return change(content, random)[:max_bytes]

    atheris.Setup(
        [sys.argv[0], *flags, "-timeout=100000", "-print_final_stats=1", str(corpus)],
        run,
        custom_mutator=custom if change else None,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
