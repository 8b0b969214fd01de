"""What holds of the assets of all stages: versions, metadata, plots and links."""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from booru_embed_dagster.definitions import defs
from booru_embed_dagster.warehouse.manifests import content_version, read_manifest
from tests.dagster.asset_helpers import ALL_ASSETS, DATA_ASSETS, Built, metadata
from tests.dagster.project_helpers import Project, failure, rows, versions

FOLLOWED = {
    "posts": {"dagster/row_count", "num_read", "num_filtered", "num_rejected"},
    "tag_frequencies": {"dagster/row_count", "num_artist_tags", "num_uses"},
    "vocab_cost": {"dagster/row_count"},
    "vocab": {"num_tags", "num_character_tags", "share_of_uses_kept"},
    "packed_tokens": {"dagster/row_count", "num_tokens", "num_test_posts", "tokens_per_post", "num_dropped_uses"},
    "caption_lengths": {"median_length", "length_of_99_percent", "longest"},
    "checkpoint": {"num_parameters", "validation_loss", "final_loss", "seconds", "tokens_per_second"},
    "evaluation": {
        "one_hidden_recall@10",
        "half_hidden_recall@10",
        "half_hidden_recall@10_best_baseline",
        "split_half_retrieval@1",
    },
    "tag_embeddings": {"dagster/row_count"},
    "post_embeddings": {"dagster/row_count", "index_recall@10"},
}


def test_everything_materializes_and_every_check_passes(built: Built) -> None:
    _, result = built
    assert result.success
    assert set(versions(result)) == set(ALL_ASSETS)
    checks = result.get_asset_check_evaluations()
    assert {check.asset_key.to_user_string() for check in checks} == set(ALL_ASSETS) - {"vocab_cost", "caption_lengths"}
    assert all(check.passed for check in checks if check.blocking)
    warnings = {check.check_name for check in checks if not check.passed}
    assert warnings <= {"embedding_keeps_up_with_ease"}, "a model that was trained for seconds may be behind"


@pytest.mark.parametrize("asset", ALL_ASSETS)
def test_the_data_version_is_the_hash_of_what_is_in_the_warehouse(built: Built, asset: str) -> None:
    project, result = built
    product = project.warehouse.current(asset)
    assert versions(result)[asset] == product.version
    assert content_version(product.path, read_manifest(product.path).files) == product.version
    assert metadata(result, asset)["path"] == str(product.path)
    assert metadata(result, asset)["size_bytes"] > 0


@pytest.mark.parametrize("asset", ALL_ASSETS)
def test_a_version_names_what_dagster_says_it_is_made_from(built: Built, asset: str) -> None:
    project, _ = built
    recorded = read_manifest(project.warehouse.current(asset).path).inputs
    node = defs.get_repository_def().asset_graph.get(dg.AssetKey(asset))
    assert set(recorded) == {key.to_user_string() for key in node.parent_keys}
    for name in set(recorded) & set(ALL_ASSETS):
        assert recorded[name] == project.warehouse.current(name).version


def test_metadata_say_how_many_rows_there_are(built: Built) -> None:
    project, result = built
    posts = rows(project)
    general = Counter(tag for row in posts for tag in set(row["tag_string_general"].split(" ")) if tag)
    assert metadata(result, "posts")["dagster/row_count"] == len(posts) == metadata(result, "posts")["num_read"]
    assert metadata(result, "tag_frequencies")["num_general_tags"] == len(general)
    assert metadata(result, "packed_tokens")["dagster/row_count"] == len(posts)
    splits = [metadata(result, "packed_tokens")[f"num_{split}_posts"] for split in ("train", "validation", "test")]
    assert sum(splits) == len(posts)
    assert min(splits) > 0


@pytest.mark.parametrize("asset", ALL_ASSETS)
def test_what_a_person_follows_over_versions_is_a_number(built: Built, asset: str) -> None:
    shown = metadata(built[1], asset)
    for name in {*FOLLOWED[asset], "size_bytes"}:
        assert isinstance(shown[name], int | float), name
        assert math.isfinite(shown[name])


@pytest.mark.parametrize("asset", [*DATA_ASSETS, "evaluation", "tag_embeddings", "post_embeddings"])
def test_metadata_hold_columns_with_their_meaning_and_a_preview(built: Built, asset: str) -> None:
    _, result = built
    shown = metadata(result, asset)
    columns = shown["dagster/column_schema"].columns
    assert columns
    described = {column.name for column in columns if column.description}
    assert {column.name for column in columns} == described
    (event,) = result.asset_materializations_for_node(asset)
    preview = event.metadata["preview"]
    assert isinstance(preview, dg.TableMetadataValue)
    assert preview.records
    assert all(len(str(value)) <= 100 for record in preview.records for value in record.data.values())


@pytest.mark.parametrize(
    ("asset", "name"),
    [
        ("tag_frequencies", "tag_frequencies.png"),
        ("vocab_cost", "vocab_cost.png"),
        ("vocab", "vocab.png"),
        ("caption_lengths", "caption_lengths.png"),
        ("checkpoint", "curves.png"),
        ("evaluation", "recall.png"),
        ("tag_embeddings", "tag_map.png"),
    ],
)
def test_plots_are_shown_and_lie_beside_the_data(built: Built, asset: str, name: str) -> None:
    project, result = built
    shown = re.fullmatch(r"!\[\w+\]\(data:image/png;base64,(.+)\)", str(metadata(result, asset)["plot"]))
    assert shown
    file = project.warehouse.current(asset).path / name
    assert base64.b64decode(shown[1]) == file.read_bytes()
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("asset", ALL_ASSETS)
def test_every_asset_links_to_what_it_is_made_from(built: Built, asset: str) -> None:
    (event,) = built[1].asset_materializations_for_node(asset)
    node = defs.get_repository_def().asset_graph.get(dg.AssetKey(asset))
    for key in node.parent_keys:
        assert event.metadata[f"made from {key.to_user_string()}"] == dg.MetadataValue.asset(key)


def test_the_same_settings_give_the_same_versions_and_write_nothing(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    folders = sorted(path for path in (project.folder / "warehouse").glob("*/*") if path.name != ".drafts")
    selection = ",".join(DATA_ASSETS)
    assert versions(project.materialize(selection)) == {name: versions(built[1])[name] for name in DATA_ASSETS}
    assert sorted(path for path in (project.folder / "warehouse").glob("*/*") if path.name != ".drafts") == folders


def test_the_same_input_gives_the_same_versions_elsewhere(built: Built, project: Project) -> None:
    selection = ",".join(DATA_ASSETS)
    assert versions(project.materialize(selection)) == {name: versions(built[1])[name] for name in DATA_ASSETS}


@pytest.mark.parametrize(("asset", "missing"), [("tag_frequencies", "posts"), ("packed_tokens", "posts")])
def test_a_missing_input_is_named_with_the_remedy(project: Project, asset: str, missing: str) -> None:
    result = project.materialize(asset)
    assert re.search(rf"no version of '{missing}' yet; materialize it first: .*--select {missing}$", failure(result))


def test_the_manifest_of_a_product_can_be_read_by_any_program(built: Built) -> None:
    product = built[0].warehouse.current("vocab")
    manifest = json.loads((product.path / "version.json").read_text())
    assert manifest["inputs"]["tag_frequencies"] == built[0].warehouse.current("tag_frequencies").version
