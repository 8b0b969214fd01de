"""Checks of the posts that fail on purpose: damaged ones stop what is downstream."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts.rejects import REJECTS_FILE
from booru_embed_core.posts.report import REPORT_FILE
from booru_embed_dagster.assets import posts
from booru_embed_dagster.checks import posts as checks
from tests.dagster.checks.check_helpers import failed_checks, run_check, spoil, started
from tests.dagster.project_helpers import Project

PART = "part-00000.parquet"


def miscount(folder: Path) -> None:
    file = folder / REPORT_FILE
    file.write_text(file.read_text().replace('"num_kept": 400', '"num_kept": 401'))


def lose_a_post(folder: Path) -> None:
    file = folder / PART
    pq.write_table(pq.read_table(file).slice(1), file)


def invent_a_reject(folder: Path) -> None:
    file = folder / REJECTS_FILE
    schema = pq.read_schema(file)
    row = {field.name: 1 if pa.types.is_integer(field.type) else "?" for field in schema}
    pq.write_table(pa.Table.from_pylist([row], schema), file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (miscount, "read is not kept + duplicate + rejected"),
        (lose_a_post, "399 posts, 400 reported"),
        (invent_a_reject, "1 lines, 0 reported"),
    ],
)
def test_posts_that_do_not_reconcile_fail(copy: Project, damage: Callable[[Path], None], message: str) -> None:
    assert run_check(checks.posts_reconcile, copy).passed
    damage(copy.warehouse.current("posts").path)
    result = run_check(checks.posts_reconcile, copy)
    assert not result.passed
    assert message in str(result.description)
    assert "materialize posts again" in str(result.description)


def test_posts_that_do_not_reconcile_stop_the_pipeline(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posts, "read_export", spoil(posts.read_export, miscount))
    result = project.materialize("posts+")
    assert failed_checks(result) == {"posts_reconcile"}
    of_posts = ["posts_reconcile", "posts_have_their_columns", "few_tags_are_unknown", "few_posts_are_in_two_files"]
    assert started(result) == {"posts", *(f"posts_{name}" for name in of_posts)}


def test_posts_without_a_column_or_of_another_type_fail(copy: Project) -> None:
    assert run_check(checks.posts_have_their_columns, copy).passed
    file = copy.warehouse.current("posts").path / PART
    good = pq.read_table(file)
    pq.write_table(good.set_column(2, "score", good["score"].cast(pa.int64())), file)
    result = run_check(checks.posts_have_their_columns, copy)
    assert not result.passed
    message = "column pyarrow.Field<score: int64> instead of pyarrow.Field<score: int32 not null>; materialize posts"
    assert message in str(result.description)
    pq.write_table(good.drop_columns(["meta"]), file)
    result = run_check(checks.posts_have_their_columns, copy)
    assert "columns id,rating,score,general,artist,copyright,character instead of" in str(result.description)


def write_uses(num_unknown: int, num_tags: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        values = json.loads((folder / REPORT_FILE).read_text())
        values |= {"num_unknown_tags": num_unknown, "num_split_tags": num_tags}
        (folder / REPORT_FILE).write_text(json.dumps(values))

    return write


@pytest.mark.parametrize(("num_unknown", "is_fine"), [(0, True), (20, True), (21, False), (2_000, False)])
def test_many_unknown_tags_warn(copy: Project, num_unknown: int, is_fine: bool) -> None:
    result = run_check(checks.few_tags_are_unknown, copy)
    assert (result.passed, result.description) == (True, "every file has a column of tags for each category")
    write_uses(num_unknown, 2_000)(copy.warehouse.current("posts").path)
    result = run_check(checks.few_tags_are_unknown, copy)
    assert (result.passed, result.severity) == (is_fine, dg.AssetCheckSeverity.WARN)
    assert result.metadata["share_unknown"].value == num_unknown / 2_000
    if not is_fine:
        share = "1.1%" if num_unknown == 21 else "100.0%"
        assert f"{num_unknown:,} of 2,000 uses ({share}) are of tags that the table of tags" in str(result.description)
        assert "set [posts] tag_categories" in str(result.description)


@pytest.mark.parametrize(("num_duplicates", "is_fine"), [(0, True), (4, True), (5, False)])
def test_posts_of_one_file_in_another_warn(copy: Project, num_duplicates: int, is_fine: bool) -> None:
    file = copy.warehouse.current("posts").path / REPORT_FILE
    values = json.loads(file.read_text())
    values["files"][0] |= {"num_read": 400, "num_duplicate_of_other_files": num_duplicates}
    file.write_text(json.dumps(values))
    result = run_check(checks.few_posts_are_in_two_files, copy)
    assert (result.passed, result.severity) == (is_fine, dg.AssetCheckSeverity.WARN)
    assert result.metadata["num_duplicate_of_other_files"].value == num_duplicates
    if not is_fine:
        assert "5 of 400 posts have the id of a post in an earlier file" in str(result.description)
        assert "[[posts.source]]" in str(result.description)
