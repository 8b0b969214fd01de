"""Writes a benchmark's figures as JSON, with the commit and the machine."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

RESULTS = Path(__file__).parent / "results"
BOORU_EMBED: Final = "ours"
"""The key of booru-embed beside its peers in ``results/*.json``; people see `display_name`."""


def display_name(key: str) -> str:
    """The name that people see for the `key` of a way in a result file."""
    name = re.sub(rf"\b{BOORU_EMBED}\b", "booru-embed", key)
    return name.replace("bare_parse", "bare parse").replace("our file", "packed file")


def about() -> dict[str, Any]:
    """The commit, the time, the machine and torch's version; a commit with uncommitted changes ends in ``+``."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip() + ("+" if dirty.stdout.strip() else ""),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": str(torch.cpu.get_capabilities().get("cpu_name", platform.processor())),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "torch": torch.__version__,
    }


def write(name: str, figures: dict[str, Any]) -> Path:
    """Writes `figures` with commit, time and machine as ``results/<name>.json`` and returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**about(), **figures}, indent=2) + "\n", encoding="utf-8")
    print(f"-> {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path
