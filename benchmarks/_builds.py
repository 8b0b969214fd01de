"""Builds of the repository to measure side by side: an older one in a folder, and processes that run either."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""Of this build."""


def unpack(revision: str, folder: Path, packages: Sequence[str] = ("booru_embed_core",)) -> None:
    """Writes `packages` as they are in the git `revision` into `folder`, which need not exist."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", revision, *packages], check=True, stdout=subprocess.PIPE
    )
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def cpu_seconds(arguments: Sequence[str], build: Path = ROOT, **variables: str) -> tuple[float, str]:
    """The CPU seconds of ``python -c`` with `arguments` and the modules of `build`, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", *arguments],
        cwd=build,
        env={**os.environ, "PYTHONPATH": str(build), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout
