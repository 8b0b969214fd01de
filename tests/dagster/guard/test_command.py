"""The command `booru-embed build`: it shows, asks, refuses, and runs what `dg launch` would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from booru_embed_dagster.guard import command
from tests.core.cli_helpers import Outcome, cli
from tests.dagster.project_helpers import Project

Build = Callable[..., Outcome]


@pytest.fixture
def project(settled: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    copied = settled.copy_to(tmp_path / "copy")
    for name, value in copied.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "")  # dg sets it
    return copied


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], _process_hooks: None) -> Build:
    """`booru-embed build` with these arguments, in this process."""

    def call(*arguments: str, answer: str | None = None) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["booru-embed", "build", *arguments])
        monkeypatch.setattr(sys.stdin, "isatty", lambda: answer is not None, raising=False)
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: answer)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capfd.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the assets of each run that would have been started."""
    runs: list[list[str]] = []
    monkeypatch.setattr(command, "_launch", lambda keys: runs.append([key.to_user_string() for key in keys]))
    return runs


def run_ids(project: Project) -> set[str]:
    with project.instance() as instance:
        return {run.run_id for run in instance.get_runs()}


def test_a_selection_of_nothing_runs_nothing(project: Project, build: Build) -> None:
    """Dagster's own command would have materialized everything."""
    before = run_ids(project)
    for selection in ("key:vocabb+", "kind:nope", 'key:"vocab" and kind:"csv"'):
        assert "names no asset" in build(selection, "--yes").failed(1)
    assert run_ids(project) == before


def test_it_shows_what_would_run_and_runs_only_what_is_confirmed(
    project: Project, build: Build, launched: list[list[str]]
) -> None:
    project.set(keep_percentile=90)
    shown = build("vocab,settings/vocab,vocab_cost", "--dry-run")
    assert (shown.code, launched) == (0, [])
    header, *lines, total, observed = shown.out.splitlines()
    assert header.split() == ["asset", "last", "time", "size", "why"]
    assert [line.split()[0] for line in lines] == ["vocab", "vocab_cost"]
    assert lines[0].endswith(" MB  `settings/vocab`: keep_percentile 95.0 → 90.0")
    assert lines[1].endswith(" MB  nothing has changed")
    assert total.startswith("total")
    assert observed == "observed: settings/vocab"
    refused = build("vocab")
    assert refused.code == 2
    assert refused.err.startswith("error: Nothing was built: there is no terminal to ask on. Add --yes")
    assert build("vocab", answer="n").code == 1
    assert launched == []
    assert build("vocab", answer="y").code == 0
    assert build("vocab,settings/vocab", "--yes").code == 0
    assert launched == [["vocab"], ["settings/vocab", "vocab"]]


@pytest.mark.usefixtures("light")
def test_a_confirmed_build_is_a_run_of_dg_launch_with_these_assets(project: Project, build: Build) -> None:
    before = run_ids(project)
    assert build("vocab_cost,settings/posts", "--yes").code == 0
    project.settings_file.write_text(project.settings_file.read_text().replace("export/*.csv", "export/none.csv"))
    assert "none.csv" in build("posts", "--yes").failed(1)
    project.set(keep_percentile=90)
    (project.warehouse.root / "tag_frequencies/current").unlink()
    failed = build("vocab", "--yes")
    assert failed.code == 1
    with project.instance() as instance:
        runs = [run for run in instance.get_runs() if run.run_id not in before]
    assert [run.status for run in runs] == [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS]
    assert runs[1].asset_selection == {dg.AssetKey("vocab_cost"), dg.AssetKey(["settings", "posts"])}


@pytest.mark.parametrize("home", ["/nowhere/at/all", "not/absolute"])
def test_an_instance_that_cannot_be_opened_is_said_in_a_line(
    build: Build, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", home)
    assert build("vocab", "--dry-run").failed(1).startswith(f"DAGSTER_HOME={home}: ")


def test_without_an_instance_nothing_is_known_and_it_says_so(
    project: Project, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    shown = build("vocab", "--dry-run")
    assert shown.err.startswith("note: DAGSTER_HOME is not set")
    assert shown.out.splitlines()[1].split() == ["vocab", "unknown", "unknown", "never", "built"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "unknown"),
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (61, "1 min 1 s"),
        (3599.6, "1 h 0 min"),
        (7380, "2 h 3 min"),
    ],
)
def test_durations_are_shown_in_units_that_people_read(seconds: float | None, shown: str) -> None:
    assert command._duration(seconds) == shown


def test_the_help_of_all_commands_loads_nothing_of_dagster(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "dagster":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "booru_embed_dagster.definitions")
    assert "Build assets of the pipeline" in build("--help").out
    assert build("vocab").failed(1) == "dagster is not installed; pip install 'booru-embed[dag]'"
