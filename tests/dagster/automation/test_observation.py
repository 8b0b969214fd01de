"""Versions of what the pipeline reads: they change when the content does, and only then."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.report import PostsReport
from booru_embed_core.settings import PostsSettings, Settings
from booru_embed_dagster.automation.observation import (
    ExportFile,
    Observation,
    hash_paths,
    is_being_written,
    observe_export,
    settings_key,
)
from tests.dagster.project_helpers import Project, rows


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"content of {name}")
    return [tmp_path / "a.csv", tmp_path / "b.csv"]


def test_the_manifest_names_files_relative_to_the_settings(files: list[Path], tmp_path: Path) -> None:
    first, second = hash_paths(files, tmp_path)
    assert (first.name, first.num_bytes) == ("a.csv", 16)
    assert second.name == "b.csv"
    assert hash_paths(files[:1], tmp_path / "elsewhere")[0].name == "../a.csv"


def test_the_version_follows_the_content(files: list[Path], tmp_path: Path) -> None:
    def version() -> str:
        return Observation(tuple(hash_paths(sorted(tmp_path.glob("*.csv")), tmp_path))).version

    before = version()
    os.utime(files[0], (1, 1))
    assert version() == before
    text = files[0].read_text()
    files[0].write_text(text.replace("a", "e"))  # of the same size
    os.utime(files[0], (2, 2))
    assert version() != before
    files[0].write_text(text)
    assert version() == before
    files[1].rename(tmp_path / "c.csv")
    assert version() != before


def test_an_export_is_being_written_while_its_youngest_file_is_young(files: list[Path], tmp_path: Path) -> None:
    settings = Settings(posts=PostsSettings(export=("*.csv",)), root=tmp_path)
    os.utime(files[0], (1, 1))
    assert is_being_written(settings)
    os.utime(files[1], (1, 1))
    assert not is_being_written(settings)


def test_a_folder_of_captions_is_one_entry_whose_hash_follows_its_files(tmp_path: Path) -> None:
    def entry() -> ExportFile:
        (file,) = observe_export(settings).files
        return file

    folder = tmp_path / "captions"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.txt", "sub/b.txt", "a.jpg"):
        (folder / name).write_text("x, y")
    settings = Settings(posts=PostsSettings(export=("captions",), preset="caption-folder"), root=tmp_path)
    before = entry()
    assert (before.name, before.num_bytes) == ("captions", 8)
    assert is_being_written(settings)
    for name in ("a.txt", "sub/b.txt"):
        os.utime(folder / name, (1, 1))
    assert entry() == before
    assert not is_being_written(settings)
    (folder / "a.jpg").write_text("another image")
    assert entry() == before
    (folder / "a.txt").write_text("x, z")
    changed = entry()
    assert changed.sha256 != before.sha256
    (folder / "sub" / "b.txt").rename(folder / "sub" / "c.txt")
    assert entry().sha256 not in (before.sha256, changed.sha256)


def test_captions_become_posts_of_the_pipeline(project: Project) -> None:
    folder = project.folder / "captions"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(f"1girl, tag {number}")
    text = project.settings_file.read_text(encoding="utf-8")
    export = 'export = ["captions"]\npreset = "caption-folder"'
    project.settings_file.write_text(text.replace('export = ["export/*.csv"]', export), encoding="utf-8")
    assert project.materialize("posts_export,posts").success
    (report,) = (project.folder / "warehouse" / "posts").glob("current/report.json")
    assert PostsReport.from_json(report.read_text()).num_kept == 20


manifests = st.lists(
    st.builds(ExportFile, st.text("ab01", max_size=3), st.integers(0, 11), st.text("ab01", max_size=3)), max_size=3
)


@given(manifests, manifests)
def test_other_manifests_have_other_versions(one: list[ExportFile], two: list[ExportFile]) -> None:
    assert (Observation(tuple(one)).version == Observation(tuple(two)).version) == (one == two)


def test_only_the_sections_that_are_asked_for_are_observed(project: Project) -> None:
    result = project.materialize('key:"settings/vocab"')
    (event,) = result.get_asset_observation_events()
    assert event.asset_key == settings_key("vocab") == dg.AssetKey(["settings", "vocab"])
    values = event.asset_observation_data.asset_observation.metadata["values"].value
    assert values["keep_percentile"] == 95


def test_a_changed_value_changes_its_section_alone(project: Project) -> None:
    def observe() -> dict[str, str | None]:
        events = project.materialize('key:"settings/*"').get_asset_observation_events()
        observations = [event.asset_observation_data.asset_observation for event in events]
        return {observation.asset_key.to_user_string(): observation.data_version for observation in observations}

    before = observe()
    project.set(keep_percentile=80)
    after = observe()
    assert {name for name in before if before[name] != after[name]} == {"settings/vocab"}


def test_a_table_of_aliases_is_observed_with_the_export_and_applied(project: Project) -> None:
    def posts_version() -> str:
        result = project.materialize("posts_export,posts")
        assert result.success
        (report,) = [PostsReport.from_json(file.read_text()) for file in posts_folder.glob("current/report.json")]
        counted.append(report.num_aliases)
        events = result.get_asset_observation_events()
        return str(events[0].asset_observation_data.asset_observation.data_version)

    posts_folder, counted = project.folder / "warehouse" / "posts", list[int]()
    table = project.folder / "tags.csv"
    settings = project.settings_file.read_text(encoding="utf-8")
    before = posts_version()
    project.settings_file.write_text(settings.replace("[posts]", '[posts]\naliases = "tags.csv"'), encoding="utf-8")
    table.write_text("tag,category,aliases\nnobody,0,none\n", encoding="utf-8")
    with_table = posts_version()
    table.write_text("tag,category,aliases\none_girl,0,1girl\n", encoding="utf-8")
    changed = posts_version()
    assert len({before, with_table, changed}) == 3
    num_girls = sum("1girl" in row["tag_string_general"].split(" ") for row in rows(project))
    assert num_girls > 0
    assert counted == [0, 0, num_girls]
