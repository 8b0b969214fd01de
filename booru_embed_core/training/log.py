"""The training log while it is written: JSON lines that survive a kill and a resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from booru_embed_core.filesystem import atomic_file


class TrainingLog:
    """JSON lines at `path`, one record a logged step; `records` are those of this training in order.

    Args:
        path: kept from an earlier run of the same training, or new.
        first_step: the step that is resumed from: what was logged after it is dropped, since it is done again.
        is_written: False keeps the records in memory alone: of all ranks the first one writes.
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
        """Adds `record`, which has its ``step``."""
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
        except ValueError:  # the empty end, or a line that a kill cut short
            break
        if record["step"] > step:
            break
        records.append(record)
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
