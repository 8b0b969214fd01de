"""The assets `evaluation` and `tag_embeddings`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from booru_embed_core import BooruEmbedder
from tests.dagster.asset_helpers import Built, metadata
from tests.dagster.project_helpers import failure


def test_the_best_baseline_stands_beside_the_embedding(built: Built) -> None:
    project, result = built
    content = json.loads((project.warehouse.current("evaluation").path / "evaluation.json").read_text())
    for hide, task in content["tasks"].items():
        best = max(task["models"][name]["recall@10"] for name in ("popularity", "ease"))
        assert metadata(result, "evaluation")[f"{hide}_hidden_recall@10_best_baseline"] == pytest.approx(best)


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


@pytest.mark.usefixtures("light")
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
