"""Writes the training log: JSON lines that survive a kill and a resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from booru_embed_core.filesystem import atomic_file


class TrainingLog:
    """JSON lines at `path`, one record per logged step; `records` holds all records of this training in order.

    Args:
        path: the log of an earlier run of this training, or a new file.
        first_step: the step that training resumes from. Later records are dropped, since those steps are repeated.
        is_written: False on every rank but the first: records stay in memory.
    """

    def __init__(self, path: Path, first_step: int, is_written: bool = True) -> None:
        self.path = path
        self.is_written = is_written
        self.records = _records_until(path, first_step) if first_step and path.exists() else []
        if not is_written:
            return
        with atomic_file(path) as partial:
            partial.write_text("".join(_line(record) for record in self.records), encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds `record`, which has a ``step``."""
        self.records.append(dict(record))
        if not self.is_written:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(record))

    def copy_to(self, path: Path) -> None:
        """Writes the whole log to `path`."""
        path.write_bytes(self.path.read_bytes())


def _records_until(path: Path, step: int) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:  # the empty last line, or a line cut short by a kill
            break
        if record["step"] > step:
            break
        records.append(record)
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
