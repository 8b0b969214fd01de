"""The observable sources: what is observed, and what a broken settings file does."""

from __future__ import annotations

from booru_embed_core.settings import OBSERVED_SECTIONS, load_settings, section_version
from booru_embed_dagster.warehouse.manifests import read_manifest
from tests.dagster.asset_helpers import Built
from tests.dagster.project_helpers import Project, failure


def test_sources_are_observed_with_the_hash_of_their_content(built: Built) -> None:
    project, result = built
    settings = load_settings(project.settings_file)
    observed = {
        event.asset_key.to_user_string(): event.asset_observation_data.asset_observation.data_version
        for event in result.get_asset_observation_events()
    }
    assert set(observed) == {"posts_export", *(f"settings/{section}" for section in OBSERVED_SECTIONS)}
    for section in OBSERVED_SECTIONS:
        assert observed[f"settings/{section}"] == section_version(getattr(settings, section))
    assert read_manifest(project.warehouse.current("posts").path).inputs["posts_export"] == observed["posts_export"]


def test_observing_with_bad_settings_fails_with_one_line(project: Project) -> None:
    project.settings_file.unlink()
    assert "no such settings file" in failure(project.materialize('key:"settings/vocab"'))
