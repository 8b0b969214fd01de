"""Writes the training log: JSON lines that survive a kill and a resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from booru_embed_core.filesystem import atomic_file
from booru_embed_core.json_files import Count, parse_json, read_text

_MAX_BYTES: Final = 1 << 30
"""A record has 400 bytes: two million of them."""


class LogRecord(BaseModel):
    """A line of the log. Losses may be NaN, which a check of the checkpoint reports."""

    model_config = ConfigDict(strict=True, extra="allow")

    step: Count
    epoch: float
    loss: float
    terms: dict[str, float] | None = None
    tokens_per_second: float | None = None
    validation: dict[str, float] | None = None


def read_records(file: Path, error: type[ValueError], remedy: str) -> list[dict[str, Any]]:
    """The records of a whole log, in order.

    Raises:
        error: the log is missing, or a line of it is no `LogRecord`.
    """
    lines = read_text(file, error, remedy, max_bytes=_MAX_BYTES).removesuffix("\n").split("\n")
    return [
        _record(line, f"{file}:{number}", error, remedy) for number, line in enumerate(lines, 1) if line or lines[1:]
    ]


def _record(line: str, where: str, error: type[ValueError], remedy: str) -> dict[str, Any]:
    return parse_json(line, LogRecord, where, error, remedy).model_dump(exclude_unset=True)


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
    """The records of an unfinished log up to `step`; its last line may be cut short by a kill."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = _record(line, path.name, ValueError, "")
        except ValueError:  # the empty last line, or one that was cut short
            break
        if record["step"] > step:
            break
        records.append(record)
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
