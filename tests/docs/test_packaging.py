"""What the package, its citation, its changelog and CI say of versions is the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

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


def pinned(name: str) -> dict[str, str]:
    """The versions in a file of pins, by the canonical names of their distributions; without local versions."""
    lines = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(distribution): version for distribution, version in lines}


def direct() -> dict[str, set[str]]:
    """The extras that name each distribution of pyproject.toml, by its name; "" is the base."""
    found: dict[str, set[str]] = {}
    for extra, lines in {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items():
        for name in (Requirement(line).name for line in lines):
            found.setdefault(canonicalize_name(name), set()).add(extra)
    del found["booru-embed"]  # an extra that is made of others
    return found


def test_every_direct_dependency_is_listed_with_its_extras_and_no_other() -> None:
    text = (ROOT / "docs/reference/dependencies.md").read_text(encoding="utf-8")
    rows = [re.split(r" *\| *", line.strip("| ")) for line in re.findall(r"^\| `.*$", text, re.MULTILINE)]
    listed = {
        canonicalize_name(row[0].strip("`")): {*re.findall(r"`(\w+)`", row[1]), *([""] if "base" in row[1] else [])}
        for row in rows
    }
    assert listed == direct()
    for name, _, *columns in rows:
        assert len(columns) == 4, name
        assert all(columns), name


def test_the_locks_have_the_pinned_versions_each_with_hashes() -> None:
    constraints = pinned("constraints.txt")
    locks = {name: pinned(name) for name in ("requirements.lock", "requirements-torch.lock")}
    assert not locks["requirements.lock"].keys() & locks["requirements-torch.lock"].keys()
    both = locks["requirements.lock"] | locks["requirements-torch.lock"]
    assert {name: both.get(name) for name in constraints} == constraints
    assert "torch" in locks["requirements-torch.lock"]
    for name in locks:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text
        entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
        assert len(entries) == len(locks[name])
        for entry in entries:
            assert re.fullmatch(r"[\w.-]+==[^\n]+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", entry), entry[:60]


def test_what_is_pinned_is_allowed() -> None:
    constraints = pinned("constraints.txt")
    lines = [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["dag"],
        *PROJECT["optional-dependencies"]["dev"],
    ]
    for requirement in map(Requirement, lines):
        version = constraints.get(canonicalize_name(requirement.name))
        if requirement.name not in ("booru-embed", "setuptools") and version is not None:
            assert requirement.specifier.contains(Version(version)), requirement
