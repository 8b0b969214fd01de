"""What is being read is told, and not too often."""

from __future__ import annotations

from pathlib import Path

import pytest

from booru_embed_core.posts import progress
from booru_embed_core.posts.progress import Progress
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, csv_bytes, row


def test_the_first_file_is_told_at_once_and_the_next_line_comes_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    told: list[str] = []
    one = Progress(told.append)
    one.update("a.csv", 0)
    now += progress.SECONDS - 0.1
    one.update("a.csv", 50)
    now += 0.1
    one.update("b.csv", 131_072)
    one.update("b.csv", 262_144)
    assert told == ["reading a.csv", "reading b.csv, 131,072 posts so far"]


def test_each_file_and_batch_of_an_export_is_an_occasion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_bytes(csv_bytes([row(1), row(2)]))
    (out := tmp_path / "out").mkdir()
    told: list[str] = []
    read_export(PostsSettings(export=("*.csv",)), tmp_path, out, ONE_THREAD, say=told.append)
    assert told == [
        "reading a.csv",
        "reading a.csv, 2 posts so far",
        "reading b.csv, 2 posts so far",
        "reading b.csv, 4 posts so far",
    ]
