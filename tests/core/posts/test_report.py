"""The report: counts that add up, as text and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from booru_embed_core.posts.report import FileCounts, PostsReport
from tests.core.export_helpers import csv_bytes, row

ReadExport = Callable[..., tuple[PostsReport, Path]]


def test_the_report_is_written_and_comes_back(read_export: ReadExport) -> None:
    report, posts_dir = read_export(csv_bytes([row(1), row(1), row("?")]))
    text = (posts_dir / "report.json").read_text(encoding="utf-8")
    assert PostsReport.from_json(text) == report
    assert json.loads(text)["reconciles"] is True


def test_a_report_that_does_not_add_up_does_not_reconcile(read_export: ReadExport) -> None:
    report, _ = read_export(csv_bytes([row(1)]))
    values = json.loads(report.to_json())
    assert not PostsReport.from_json(json.dumps({**values, "num_kept": 2})).reconciles
    values["files"][0]["num_rejected"] = 1
    assert not PostsReport.from_json(json.dumps({**values, "num_rejected": 1})).reconciles


def test_a_report_adds_up_its_files() -> None:
    first = FileCounts(file="a", num_read=9, num_kept=4, num_duplicate=3, num_rejected=2)
    second = FileCounts(file="b", num_read=10, num_kept=1, num_duplicate=2, num_rejected=3, num_filtered=4)
    report = PostsReport.of([first, second], num_aliases=5, num_repeats=6, num_unknown_tags=7)
    assert report.reconciles
    assert report.summary == "19 posts read, 5 kept, 5 duplicate, 5 rejected, 4 filtered, 7 uses of unknown tags"
    none = PostsReport.of([first, second], num_aliases=5, num_repeats=6, num_unknown_tags=0)
    assert none.summary == "19 posts read, 5 kept, 5 duplicate, 5 rejected, 4 filtered"
    assert (report.num_aliases, report.num_repeats, report.num_unknown_tags) == (5, 6, 7)
    assert report.files == (first, second)
    # One file that does not add up is enough.
    wrong = dataclasses.replace(first, num_kept=5)
    assert not PostsReport.of([wrong, second], num_aliases=0, num_repeats=0, num_unknown_tags=0).reconciles
