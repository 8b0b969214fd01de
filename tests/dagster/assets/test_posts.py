"""The asset `posts`: new exports, and runs that fail."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.dagster.asset_helpers import Built, metadata
from tests.dagster.project_helpers import Project, failure, rows, versions


def test_a_changed_export_is_another_version_of_the_export_and_of_posts(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    lines = project.export_file.read_text(encoding="utf-8").splitlines(keepends=True)
    project.export_file.write_text("".join(lines[:-1]), encoding="utf-8")
    result = project.materialize("posts_export,posts")
    assert metadata(result, "posts")["dagster/row_count"] == len(rows(built[0])) - 1
    assert versions(result)["posts"] != versions(built[1])["posts"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[vocab]\nkeep_percentile = 0", r"/settings\.toml: vocab\.keep_percentile = 0: .*; correct the value"),
        ("[vocab]\npercentile = 9", r"/settings\.toml: unknown setting 'vocab\.percentile'; known here: .*"),
        ("[vocab", r"/settings\.toml: not valid TOML: .*; correct that line"),
        ('[posts]\nexport = ["none/*.csv"]', r".*none/\*\.csv: no such export file; .*"),
    ],
)
def test_a_run_with_bad_settings_fails_with_one_line(project: Project, line: str, message: str) -> None:
    project.settings_file.write_text(line)
    result = project.materialize("posts")
    assert not result.success
    assert re.fullmatch(message, failure(result).removeprefix(str(project.folder)))
    assert "\n" not in failure(result)


def test_a_failed_run_leaves_the_old_version_current_and_no_draft(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    shutil.rmtree(project.export_file.parent)
    (project.folder / "export").mkdir()
    project.export_file.write_text("id,rating\n1,g\n")
    assert not project.materialize("posts").success
    assert project.warehouse.current("posts").version == versions(built[1])["posts"]
    assert list((project.folder / "warehouse" / "posts" / ".drafts").iterdir()) == []
