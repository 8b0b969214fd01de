"""The log resumes where the training does, whatever state a kill left it in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from booru_embed_core.training.log import TrainingLog

RECORDS = [{"step": step, "epoch": step / 30, "loss": 1 / step, "terms": {"head": 0.5}} for step in (10, 20, 30)]


def written(path: Path) -> bytes:
    log = TrainingLog(path, 0)
    for record in RECORDS:
        log.append(record)
    return path.read_bytes()


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_records_are_lines_of_json(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "log.jsonl", 0)
    for record in RECORDS:
        log.append(record)
    log.copy_to(tmp_path / "copy.jsonl")
    assert lines(tmp_path / "copy.jsonl") == log.records == RECORDS


@pytest.mark.parametrize(("first_step", "num_kept"), [(0, 0), (9, 0), (10, 1), (25, 2), (30, 3), (99, 3)])
def test_what_was_logged_after_the_state_is_dropped(tmp_path: Path, first_step: int, num_kept: int) -> None:
    written(tmp_path / "log.jsonl")
    log = TrainingLog(tmp_path / "log.jsonl", first_step)
    log.append({"step": 100})
    assert lines(tmp_path / "log.jsonl") == log.records == [*RECORDS[:num_kept], {"step": 100}]


def test_a_line_cut_at_any_byte_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    content = written(path)
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        log = TrainingLog(path, 30)
        log.append({"step": 40})
        # A record that lacks only its line feed is complete.
        num_whole = sum(end - 1 <= size for end in ends)
        assert lines(path) == log.records == [*RECORDS[:num_whole], {"step": 40}]


def test_a_training_without_a_log_so_far_starts_one(tmp_path: Path) -> None:
    assert TrainingLog(tmp_path / "log.jsonl", 30).records == []
    assert (tmp_path / "log.jsonl").read_bytes() == b""
