"""The asset `checkpoint`: its version, and training that fails."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from booru_embed_core import BooruEmbedder
from booru_embed_dagster.warehouse.manifests import read_manifest
from tests.dagster.asset_helpers import Built, metadata
from tests.dagster.project_helpers import failure, versions


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
