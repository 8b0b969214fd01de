"""What the package, its citation, its changelog and CI say of versions is the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_yaml(name: str) -> dict[str, object]:
    found = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_version_is_cited_and_has_its_changes() -> None:
    assert read_yaml("CITATION.cff")["version"] == PROJECT["version"]
    releases = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert releases[0] in (PROJECT["version"], "Unreleased")
    assert PROJECT["version"] in releases


def test_changes_stand_under_the_headings_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for release in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        headings = re.findall(r"^### (.*)$", release, re.MULTILINE)
        assert headings == [name for name in ("Added", "Changed", "Fixed", "Removed") if name in headings], release[:20]


def test_ci_tries_the_python_versions_that_the_package_names() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    tried = re.search(r"^ *python: \[(.*)\]$", workflow, re.MULTILINE)
    assert tried is not None
    assert re.findall(r"3\.\d+", tried[1]) == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_workflows_and_hooks_are_yaml() -> None:
    for name in (".github/workflows/ci.yml", ".github/workflows/release.yml"):
        jobs = read_yaml(name)["jobs"]
        assert isinstance(jobs, dict)
        for job in jobs.values():
            for step in job["steps"]:
                assert re.search(r"@v\d+$", step.get("uses", "@v0")), step
    assert read_yaml(".pre-commit-config.yaml")["repos"]
