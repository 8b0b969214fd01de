"""What holds of every check."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_dagster.checks.base import Findings, blocking, column_problems, warning
from booru_embed_dagster.definitions import defs
from booru_embed_dagster.resources import Pipeline
from tests.dagster.checks.check_helpers import run_check
from tests.dagster.project_helpers import REPOSITORY, Project

PAGE = REPOSITORY / "docs" / "reference" / "checks.md"


CHECKS = [check for check in defs.asset_checks or () if isinstance(check, dg.AssetChecksDefinition)]


def test_every_check_is_looked_at() -> None:
    graph = defs.get_repository_def().asset_graph
    assert {spec.key for check in CHECKS for spec in check.check_specs} == set(graph.asset_check_keys)


def test_the_page_names_every_check_and_what_its_failure_does() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    specs = [spec for check in CHECKS for spec in check.check_specs]
    assert set(rows) == {
        (spec.name, spec.asset_key.to_user_string(), "stops" if spec.blocking else "warns") for spec in specs
    }


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: next(iter(check.check_specs)).name)
def test_a_missing_product_fails_its_check_with_the_remedy(project: Project, check: dg.AssetChecksDefinition) -> None:
    result = run_check(check, project)
    assert not result.passed
    assert "materialize it first" in str(result.description)
    (spec,) = check.check_specs
    assert (result.severity == dg.AssetCheckSeverity.ERROR) == spec.blocking
    assert spec.description


@pytest.mark.parametrize(("decorate", "severity"), [(blocking, "ERROR"), (warning, "WARN")])
def test_findings_become_a_result(project: Project, decorate: Callable[[str], Any], severity: str) -> None:
    found = [Findings(["a; mend it", "b; mend it"], {"num": 3}), Findings([], note="nothing to compare"), Findings([])]

    @decorate("posts")
    def examined(pipeline: Pipeline) -> Findings:
        """As the UI describes it."""
        return found.pop(0)

    (spec,) = examined.check_specs
    assert (spec.name, spec.description, spec.blocking) == ("examined", "As the UI describes it.", severity == "ERROR")
    assert spec.asset_key == dg.AssetKey("posts")
    results = [run_check(examined, project) for _ in range(3)]
    assert [result.passed for result in results] == [False, True, True]
    assert [result.description for result in results] == ["a; mend it; b; mend it", "nothing to compare", None]
    assert {result.severity.value for result in results} == {severity}
    assert results[0].metadata == {"num": dg.MetadataValue.int(3)}


def test_an_error_of_the_core_fails_a_check_with_its_line(project: Project) -> None:
    @blocking("posts")
    def unreadable(pipeline: Pipeline) -> Findings:
        """A file that cannot be read."""
        raise ValueError("posts.parquet: damaged; materialize posts again")

    result = run_check(unreadable, project)
    assert (result.passed, result.description) == (False, "posts.parquet: damaged; materialize posts again")


def test_a_fault_of_the_machine_fails_the_step_of_a_check_in_one_line(project: Project) -> None:
    @blocking("posts")
    def unreadable(pipeline: Pipeline) -> Findings:
        """A faulty disk."""
        raise OSError(errno.EIO, "Input/output error", "/wh/part-0.parquet")

    with pytest.raises(dg.Failure) as caught:
        run_check(unreadable, project)
    assert str(caught.value.description).startswith("/wh/part-0.parquet: Input/output error; check the disk")
    assert not caught.value.allow_retries

    @blocking("posts")
    def broken(pipeline: Pipeline) -> Findings:
        """An error of the program."""
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_check(broken, project)


def test_other_columns_and_other_types_are_named(tmp_path: Path) -> None:
    wanted = pa.schema([("id", pa.int64()), ("tag", pa.string())])
    tables = {
        "right": pa.table({"id": [1], "tag": ["a"]}),
        "lacking": pa.table({"id": [1]}),
        "narrow": pa.table({"id": pa.array([1], pa.int32()), "tag": ["a"]}),
    }
    files = [tmp_path / f"{name}.parquet" for name in tables]
    for file, table in zip(files, tables.values(), strict=True):
        pq.write_table(table, file)
    assert column_problems(files, wanted, "vocab") == [
        f"{files[1]}: columns id instead of id,tag; materialize vocab again",
        f"{files[2]}: column pyarrow.Field<id: int32> instead of pyarrow.Field<id: int64>; materialize vocab again",
    ]
