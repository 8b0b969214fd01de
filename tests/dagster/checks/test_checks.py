"""What holds of every check."""

from __future__ import annotations

import re

import dagster as dg
import pytest

from booru_embed_dagster.definitions import defs
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
