"""The code location as its users meet it: what it defines, how it loads, the command line, the web server."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import pytest

from booru_embed_core.settings import OBSERVED_SECTIONS
from booru_embed_dagster.definitions import defs
from tests.dagster.project_helpers import REPOSITORY, Project, versions

BELOW_VOCAB = {"packed_tokens", "caption_lengths", "checkpoint", "evaluation", "tag_embeddings", "post_embeddings"}
INPUTS = {
    "posts": {"posts_export", "settings/posts"},
    "tag_frequencies": {"posts"},
    "vocab_cost": {"tag_frequencies"},
    "vocab": {"tag_frequencies", "settings/vocab"},
    "packed_tokens": {"posts", "vocab", "settings/tokens"},
    "caption_lengths": {"packed_tokens", "vocab"},
    "checkpoint": {"packed_tokens", "vocab", "settings/model", "settings/training"},
    "evaluation": {"checkpoint", "packed_tokens", "vocab", "settings/evaluation"},
    "tag_embeddings": {"checkpoint", "vocab"},
    "post_embeddings": {"checkpoint", "packed_tokens", "vocab"},
}
Built = tuple[Project, dg.ExecuteInProcessResult]


def selected(selection: str) -> set[str]:
    graph = defs.get_repository_def().asset_graph
    return {key.to_user_string() for key in dg.AssetSelection.from_coercible([selection]).resolve(graph)}


def run(project: Project, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **project.environment()}
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_the_definitions_can_be_loaded() -> None:
    dg.Definitions.validate_loadable(defs)


def test_assets_have_the_inputs_of_the_design() -> None:
    graph = defs.get_repository_def().asset_graph
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == set(INPUTS)
    for asset, inputs in INPUTS.items():
        assert {key.to_user_string() for key in graph.get(dg.AssetKey(asset)).parent_keys} == inputs
    sources = {key.to_user_string() for key in graph.observable_asset_keys}
    assert sources == {"posts_export", *(f"settings/{section}" for section in OBSERVED_SECTIONS)}


def test_every_asset_explains_itself() -> None:
    graph = defs.get_repository_def().asset_graph
    for node in graph.asset_nodes:
        assert node.description
        assert node.kinds
        assert node.group_name != "default"
    assert all(graph.get(dg.AssetKey(asset)).code_version for asset in INPUTS)
    assert all(graph.get(dg.AssetKey(asset)).owners for asset in INPUTS)


def test_vocab_plus_is_all_that_a_new_percentile_rebuilds() -> None:
    assert selected("vocab+") == selected("vocab++++") == {"vocab", *BELOW_VOCAB}


def test_a_star_is_every_asset_and_a_key_of_star_every_source_too() -> None:
    assert selected("*") == set(INPUTS)
    assert selected('key:"*"') == set(INPUTS).union(*INPUTS.values())


def test_loading_imports_neither_torch_nor_the_baselines_nor_matplotlib() -> None:
    code = (
        "import sys, booru_embed_dagster.definitions, booru_embed_dagster.training.worker; "
        "print(sorted({'torch', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_project_is_one_that_dg_finds() -> None:
    dg_table = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["dg"]
    assert dg_table["directory_type"] == "project"
    assert dg_table["project"]["root_module"] == "booru_embed_dagster"


@pytest.mark.slow
def test_dg_finds_nothing_to_warn_of(project: Project) -> None:
    done = run(project, str(Path(sys.executable).with_name("dg")), "check", "defs")
    assert done.returncode == 0, done.stderr
    assert "All definitions loaded successfully" in done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()


@pytest.mark.slow
def test_the_command_line_rebuilds_what_a_new_percentile_touches(built: Built, tmp_path: Path) -> None:
    before = versions(built[1])
    project = built[0].copy_to(tmp_path / "copy")
    project.set(keep_percentile=90)
    dagster = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "booru_embed_dagster.definitions"]
    done = run(project, *dagster, "--select", "vocab+")
    assert done.returncode == 0, done.stderr
    with project.instance() as instance:
        events = {asset: instance.get_latest_materialization_event(dg.AssetKey(asset)) for asset in INPUTS}
    anew = {asset for asset, event in events.items() if event and event.run_id != built[1].run_id}
    assert anew == {"vocab", *BELOW_VOCAB}
    for asset in ("vocab", *BELOW_VOCAB):
        assert project.warehouse.current(asset).version != before[asset]
    for asset in ("posts", "tag_frequencies", "vocab_cost"):
        assert project.warehouse.current(asset).version == before[asset]


@pytest.mark.slow
def test_dg_launch_gives_the_same_versions_from_the_same_settings(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    done = run(project, str(Path(sys.executable).with_name("dg")), "launch", "--assets", "vocab+")
    assert done.returncode == 0, done.stderr
    for asset in ("vocab", *BELOW_VOCAB):
        assert project.warehouse.current(asset).version == versions(built[1])[asset]
        assert len(project.warehouse.versions(asset)) == 1


@pytest.mark.slow
def test_the_web_server_shows_everything_fresh_and_loads_even_with_bad_settings(built: Built, tmp_path: Path) -> None:
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from starlette.testclient import TestClient

    project = built[0].copy_to(tmp_path / "copy")
    project.settings_file.write_text("[vocab")
    query = "{ assetNodes { assetKey { path } dependencyKeys { path } staleStatus } }"
    with pytest.MonkeyPatch.context() as patch, project.instance() as instance:
        for name, value in project.environment().items():
            patch.setenv(name, value)
        target = WorkspaceFileTarget(paths=[str(REPOSITORY / "workspace.yaml")])
        with WorkspaceProcessContext(instance, target) as context:
            client = TestClient(create_app_from_workspace_process_context(context))
            nodes = client.post("/graphql", json={"query": query}).json()["data"]["assetNodes"]
            assert context.create_request_context().code_location_names == ["booru_embed"]
    found = {
        "/".join(node["assetKey"]["path"]): {"/".join(key["path"]) for key in node["dependencyKeys"]} for node in nodes
    }
    assert {node["staleStatus"] for node in nodes} == {"FRESH"}
    assert found == {**{source: set() for inputs in INPUTS.values() for source in inputs}, **INPUTS}
