"""Why a training ended is left even where a disk has no room."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from booru_embed_dagster.training.reasons import (
    CRASH_FILE,
    FAILURE_FILE,
    PIPE_VARIABLE,
    RESERVED_BYTES,
    leave_reason,
    reason_in,
    release_room,
    reserve_room,
    sent_reasons,
)


def test_a_reason_takes_the_place_of_the_room_reserved_for_it(tmp_path: Path) -> None:
    for rank in (0, 1):
        reserve_room(tmp_path, rank)
    reserve_room(tmp_path, 1)
    assert [file.stat().st_size for file in tmp_path.iterdir()] == [RESERVED_BYTES] * 2
    leave_reason(tmp_path, FAILURE_FILE, "loss is nan, läßt", 1)
    assert reason_in(tmp_path, FAILURE_FILE) == "loss is nan, läßt"
    release_room(tmp_path, 0)
    release_room(tmp_path, 1)
    assert [file.name for file in tmp_path.iterdir()] == [FAILURE_FILE]


def test_a_reason_needs_no_room_beyond_the_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve_room(tmp_path, 0)
    inode = next(tmp_path.iterdir()).stat().st_ino
    monkeypatch.setattr(Path, "write_bytes", full)
    leave_reason(tmp_path, CRASH_FILE, "KeyError: 'nobody'\n", 0)
    assert (tmp_path / CRASH_FILE).stat().st_ino == inode
    assert reason_in(tmp_path, CRASH_FILE) == "KeyError: 'nobody'"
    leave_reason(tmp_path, FAILURE_FILE, "a second one", 0)  # nothing is left, and nothing is raised
    assert reason_in(tmp_path, FAILURE_FILE) == ""


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_of_a_long_traceback_the_end_is_left(tmp_path: Path) -> None:
    reserve_room(tmp_path, 0)
    leave_reason(tmp_path, CRASH_FILE, "frame\n" * RESERVED_BYTES + "KeyError: 'nobody'", 0)
    assert reason_in(tmp_path, CRASH_FILE).endswith("frame\nKeyError: 'nobody'")
    assert (tmp_path / CRASH_FILE).stat().st_size == RESERVED_BYTES


def test_without_reserved_room_a_reason_is_written_all_the_same(tmp_path: Path) -> None:
    leave_reason(tmp_path, FAILURE_FILE, "stopped at step 3", 0)
    assert reason_in(tmp_path, FAILURE_FILE) == "stopped at step 3"


def test_a_reason_is_written_into_nothing_but_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "other").open("w") as other:  # the descriptor of another file, as in a rank
        monkeypatch.setenv(PIPE_VARIABLE, str(other.fileno()))
        leave_reason(tmp_path, FAILURE_FILE, "stopped at step 3", 0)
    assert (tmp_path / "other").read_text() == ""


@pytest.mark.parametrize("sent", [b"", b"not JSON\n", b"[]\n", b'{"name": "x"}\n'])
def test_what_is_no_reason_is_not_taken_for_one(sent: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, sent)
    assert sent_reasons(reading) == {}  # although the other end is open
    for descriptor in (reading, writing):
        os.close(descriptor)
