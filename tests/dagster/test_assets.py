"""The assets of all stages: versions, metadata, and what a change rebuilds."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from booru_embed_core import BooruEmbedder
from booru_embed_core.schema import Category
from booru_embed_core.search import build as post_vectors
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.settings import OBSERVED_SECTIONS, load_settings, section_version
from booru_embed_core.tags import cut
from booru_embed_core.tags.vocab import Vocab
from booru_embed_dagster.definitions import defs
from booru_embed_dagster.warehouse.manifests import content_version, read_manifest
from tests.dagster.project_helpers import Project, failure, rows, versions

DATA_ASSETS = ("posts", "tag_frequencies", "vocab_cost", "vocab", "packed_tokens", "caption_lengths")
ALL_ASSETS = (*DATA_ASSETS, "checkpoint", "evaluation", "tag_embeddings", "post_embeddings")
Built = tuple[Project, dg.ExecuteInProcessResult]


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node(asset)
    return {key: value.value for key, value in event.metadata.items()}


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


@pytest.mark.parametrize("asset", ALL_ASSETS)
def test_what_a_person_follows_over_versions_is_a_number(built: Built, asset: str) -> None:
    shown = metadata(built[1], asset)
    for name in {*FOLLOWED[asset], "size_bytes"}:
        assert isinstance(shown[name], int | float), name
        assert math.isfinite(shown[name])


def test_the_numbers_of_the_vocabulary_are_those_of_its_tables(built: Built) -> None:
    project, result = built
    shown = metadata(result, "vocab")
    tables = [pq.read_table(file) for file in project.warehouse.current("tag_frequencies").path.glob("*.parquet")]
    num_uses = sum(sum(table["count"].to_pylist()) for table in tables)
    kept = pq.read_table(project.warehouse.current("vocab").path / "vocab.parquet")
    assert shown["share_of_uses_kept"] == sum(kept["count"].to_pylist()) / num_uses
    assert shown["num_tags"] == kept.num_rows
    assert metadata(result, "tag_frequencies")["num_uses"] == num_uses
    assert metadata(result, "tag_frequencies")["dagster/row_count"] == sum(table.num_rows for table in tables)


def test_the_numbers_of_caption_lengths_are_those_of_the_captions(built: Built) -> None:
    project, result = built
    shown = metadata(result, "caption_lengths")
    lengths = pq.read_table(project.warehouse.current("caption_lengths").path / "caption_lengths.parquet")
    every = np.repeat(lengths["length"].to_numpy(), lengths["num_posts"].to_numpy())
    assert shown["longest"] == every.max()
    for name, share in (("median_length", 0.5), ("length_of_99_percent", 0.99)):
        assert shown[name] == np.quantile(every, share, method="inverted_cdf")


def test_the_best_baseline_stands_beside_the_embedding(built: Built) -> None:
    project, result = built
    content = json.loads((project.warehouse.current("evaluation").path / "evaluation.json").read_text())
    for hide, task in content["tasks"].items():
        best = max(task["models"][name]["recall@10"] for name in ("popularity", "ease"))
        assert metadata(result, "evaluation")[f"{hide}_hidden_recall@10_best_baseline"] == pytest.approx(best)


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


def test_another_percentile_gives_a_new_vocab_and_new_tokens(built: Built, tmp_path: Path) -> None:
    before = versions(built[1])
    project = built[0].copy_to(tmp_path / "copy")
    project.set(keep_percentile=80)
    changed = versions(project.materialize("vocab,packed_tokens,caption_lengths"))
    assert set(changed) == {"vocab", "packed_tokens", "caption_lengths"}
    assert all(changed[name] != before[name] == built[0].warehouse.current(name).version for name in changed)
    assert all(project.warehouse.current(name).version == changed[name] for name in changed)


def test_another_percentile_that_keeps_the_same_tags_gives_the_same_versions(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    project.set(keep_percentile=95.0001)
    assert section_version(load_settings(project.settings_file).vocab) != section_version(
        load_settings(built[0].settings_file).vocab
    )
    again = versions(project.materialize("vocab,packed_tokens"))
    assert again == {name: versions(built[1])[name] for name in again}


def test_the_same_settings_give_the_same_versions_and_write_nothing(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    folders = sorted(path for path in (project.folder / "warehouse").glob("*/*") if path.name != ".drafts")
    selection = ",".join(DATA_ASSETS)
    assert versions(project.materialize(selection)) == {name: versions(built[1])[name] for name in DATA_ASSETS}
    assert sorted(path for path in (project.folder / "warehouse").glob("*/*") if path.name != ".drafts") == folders


def test_the_same_input_gives_the_same_versions_elsewhere(built: Built, project: Project) -> None:
    selection = ",".join(DATA_ASSETS)
    assert versions(project.materialize(selection)) == {name: versions(built[1])[name] for name in DATA_ASSETS}


def test_a_changed_export_is_another_version_of_the_export_and_of_posts(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    lines = project.export_file.read_text(encoding="utf-8").splitlines(keepends=True)
    project.export_file.write_text("".join(lines[:-1]), encoding="utf-8")
    result = project.materialize("posts_export,posts")
    assert metadata(result, "posts")["dagster/row_count"] == len(rows(built[0])) - 1
    assert versions(result)["posts"] != versions(built[1])["posts"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[vocab]\nkeep_percentile = 0", r"/settings\.toml: vocab\.keep_percentile = 0: .*; correct the value"),
        ("[vocab]\npercentile = 9", r"/settings\.toml: unknown setting 'vocab\.percentile'; known here: .*"),
        ("[vocab", r"/settings\.toml: not valid TOML: .*; correct that line"),
        ('[posts]\nexport = ["none/*.csv"]', r".*none/\*\.csv: no such export file; .*"),
    ],
)
def test_a_run_with_bad_settings_fails_with_one_line(project: Project, line: str, message: str) -> None:
    project.settings_file.write_text(line)
    result = project.materialize("posts")
    assert not result.success
    assert re.fullmatch(message, failure(result).removeprefix(str(project.folder)))
    assert "\n" not in failure(result)


def test_observing_with_bad_settings_fails_with_one_line(project: Project) -> None:
    project.settings_file.unlink()
    assert "no such settings file" in failure(project.materialize('key:"settings/vocab"'))


@pytest.mark.parametrize(("asset", "missing"), [("tag_frequencies", "posts"), ("packed_tokens", "posts")])
def test_a_missing_input_is_named_with_the_remedy(project: Project, asset: str, missing: str) -> None:
    result = project.materialize(asset)
    assert re.search(rf"no version of '{missing}' yet; materialize it first: .*--select {missing}$", failure(result))


def test_a_packed_file_of_another_vocabulary_is_refused(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    project.set(keep_percentile=80)
    assert project.materialize("vocab").success
    assert re.search("was made with the vocab .*, not with", failure(project.materialize("caption_lengths")))


def test_a_failed_run_leaves_the_old_version_current_and_no_draft(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    shutil.rmtree(project.export_file.parent)
    (project.folder / "export").mkdir()
    project.export_file.write_text("id,rating\n1,g\n")
    assert not project.materialize("posts").success
    assert project.warehouse.current("posts").version == versions(built[1])["posts"]
    assert list((project.folder / "warehouse" / "posts" / ".drafts").iterdir()) == []


def test_the_checkpoint_is_the_hash_of_its_weights_and_can_be_used(built: Built) -> None:
    project, result = built
    product = project.warehouse.current("checkpoint")
    assert read_manifest(product.path).files == ["model.safetensors"]
    embedder = BooruEmbedder.load(product.path, "cpu")
    assert embedder.embed("1girl, long hair").shape == (1, 16)
    shown = metadata(result, "checkpoint")
    assert shown["num_steps"] == math.ceil(shown["num_train_posts"] / 16)
    assert shown["validation_loss"] == pytest.approx(embedder.config.validation_loss)
    assert "# A booru-embed checkpoint" in str(shown["card"])
    assert list((project.folder / "warehouse" / "checkpoint" / ".work").iterdir()) == []


def test_the_evaluation_stands_beside_the_baselines(built: Built) -> None:
    project, result = built
    folder = project.warehouse.current("evaluation").path
    figures = json.loads((folder / "evaluation.json").read_text())
    for hide in ("one", "half"):
        models = figures["tasks"][hide]["models"]
        assert {"booru-embed", "booru-embed-head", "popularity", "ease"} <= set(models)
        assert metadata(result, "evaluation")[f"{hide}_hidden_recall@10"] == models["booru-embed"]["recall@10"]
    assert (folder / "report.md").read_text() == metadata(result, "evaluation")["report"]


def test_tag_embeddings_are_those_of_the_library(built: Built) -> None:
    project, _ = built
    table = pq.read_table(project.warehouse.current("tag_embeddings").path / "tag_embeddings.parquet")
    embedder = BooruEmbedder.load(project.warehouse.current("checkpoint").path, "cpu", "fp32")
    assert table.schema.names == ["tag", "category", "count", "vector", "x", "y"]
    assert table["tag"].to_pylist() == list(embedder.vocab.tags)
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), embedder.tag_embeddings())
    assert np.isfinite([table["x"].to_numpy(), table["y"].to_numpy()]).all()


def test_a_checkpoint_of_other_splits_is_not_evaluated(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    text = project.settings_file.read_text()
    project.settings_file.write_text(text.replace("test_share = 0.2", "test_share = 0.3"))
    assert project.materialize("packed_tokens").success
    assert "trained with other splits than" in failure(project.materialize("evaluation"))


def test_training_that_fails_names_the_reason_in_one_line(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    text = project.settings_file.read_text()
    project.settings_file.write_text(text.replace('device = "cpu"', 'device = "cuda"'))
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, so the setting is right")
    message = failure(project.materialize("checkpoint"))
    assert message.startswith('device = "cuda", but torch finds no GPU; ')
    assert "\n" not in message
    assert project.warehouse.current("checkpoint").version == versions(built[1])["checkpoint"]


def test_the_manifest_of_a_product_can_be_read_by_any_program(built: Built) -> None:
    product = built[0].warehouse.current("vocab")
    manifest = json.loads((product.path / "version.json").read_text())
    assert manifest["inputs"]["tag_frequencies"] == built[0].warehouse.current("tag_frequencies").version


def table_of(result: dg.ExecuteInProcessResult, asset: str, name: str) -> list[dict[str, object]]:
    (event,) = result.asset_materializations_for_node(asset)
    table = event.metadata[name]
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(record.data) for record in table.records]


def test_metadata_say_what_the_cut_lost(built: Built) -> None:
    _, result = built
    lost = table_of(result, "vocab", "lost")
    assert [row["category"] for row in lost] == ["general", "artist", "copyright", "character", "meta"]
    assert lost[0]["tags_kept"] == metadata(result, "vocab")["num_general_tags"]
    assert lost[0]["tags_kept"] + lost[0]["tags_lost"] == metadata(result, "tag_frequencies")["num_general_tags"]
    assert sum(row["uses_lost"] for row in lost) == metadata(result, "packed_tokens")["num_dropped_uses"]
    short = table_of(result, "caption_lengths", "short_posts")
    assert short[0]["tags_of"] == "all"
    assert short[0]["fewer_than_1"] == metadata(result, "packed_tokens")["num_posts_without_tags"]
    assert "warnings" not in metadata(result, "vocab")


def test_a_category_beyond_16_bits_is_shown(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "MAX_U16_TAGS", 50)
    result = built[0].copy_to(tmp_path / "copy").materialize("vocab")
    assert versions(result)["vocab"] == versions(built[1])["vocab"]
    assert re.fullmatch(
        r"general: \d+ tags, but 16 bits number only 50: .* or min_count = \d+ would fit",
        str(metadata(result, "vocab")["warnings"]),
    )


def test_unknown_tokens_are_in_the_vocabulary_and_not_among_the_embeddings(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    project.set(num_epochs=1)
    text = project.settings_file.read_text()
    project.settings_file.write_text(text.replace("[tokens]", 'unpopular = "unk"\n[tokens]'))
    result = project.materialize("vocab,packed_tokens,caption_lengths,checkpoint,tag_embeddings")
    assert all(check.passed for check in result.get_asset_check_evaluations() if check.blocking)
    assert result.success
    tags = pq.read_table(project.warehouse.current("vocab").path / "vocab.parquet")["tag"].to_pylist()
    embedded = pq.read_table(project.warehouse.current("tag_embeddings").path / "tag_embeddings.parquet")
    unknown = [f"unknown {category}" for category in ("general", "artist", "copyright", "character", "meta")]
    assert [tag for tag in tags if tag in unknown] == unknown
    assert embedded["tag"].to_pylist() == [tag for tag in tags if tag not in unknown]
    embedder = BooruEmbedder.load(project.warehouse.current("checkpoint").path, "cpu", "fp32")
    expected = embedder.tag_embeddings()[~embedder.vocab.is_unknown]
    assert np.array_equal(np.array(embedded["vector"].to_pylist(), np.float32), expected)


def test_post_embeddings_that_were_interrupted_go_on(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    home = project.warehouse.current("post_embeddings").path.parent
    monkeypatch.setattr(post_vectors, "PART_POSTS", 150)
    with monkeypatch.context() as patch:
        patch.setattr(post_vectors, "write_posts_table", lambda *_: "no space left".index("yet"))
        assert not project.materialize("post_embeddings").success
    assert project.warehouse.current("post_embeddings").version == versions(built[1])["post_embeddings"]
    (work,) = (home / ".work").iterdir()
    assert sorted(file.name for file in work.iterdir()) == [f"part-0000{number}.parquet" for number in range(3)]
    written = {file.name: file.read_bytes() for file in work.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(post_vectors, "_write_part", lambda *_: pytest.fail("a finished part was made again"))
        result = project.materialize("post_embeddings")
    assert result.success
    product = project.warehouse.current("post_embeddings")
    assert {name: (product.path / name).read_bytes() for name in written} == written
    assert list((home / ".work").iterdir()) == []
    assert metadata(result, "post_embeddings")["dagster/row_count"] == 400
    embedder = BooruEmbedder.load(project.warehouse.current("checkpoint").path, "cpu")
    assert len(PostSearch.open(product.path).search(embedder, "1girl", 7)) == 7


def test_other_names_of_tags_travel_with_the_vocabulary(project: Project) -> None:
    table = "name,category,post_count,aliases\n1girl,0,9,1girls sole_female\nnobody_uses_it,0,9,gone\n"
    (project.folder / "tags.csv").write_text(table, encoding="utf-8")
    text = project.settings_file.read_text(encoding="utf-8")
    project.settings_file.write_text(text.replace("[posts]\n", '[posts]\naliases = "tags.csv"\n'), encoding="utf-8")
    assert project.materialize("posts,tag_frequencies,vocab").success
    vocab = Vocab.load(project.warehouse.current("vocab").path)
    assert vocab.aliases == {Category.GENERAL: {"1girls": "1girl", "sole_female": "1girl"}}
