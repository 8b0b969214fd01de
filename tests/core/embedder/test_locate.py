"""A checkpoint is found by its folder, by its warehouse and by its name in the Hub's cache; else it is said how."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from booru_embed_core import BooruEmbedder
from booru_embed_core.embedder.locate import find_checkpoint
from booru_embed_core.training.checkpoint_config import CheckpointError
from tests.core.model_helpers import Trained

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's local cache, empty, in a folder where nothing is called like a model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_the_folder_the_asset_and_the_warehouse_mean_the_same(trained: Trained, tmp_path: Path) -> None:
    home = tmp_path / "warehouse" / "checkpoint"
    version = Path(shutil.copytree(trained.checkpoint, home / "v1"))
    (home / "current").symlink_to("v1")
    for name in (version, home / "current", home, tmp_path / "warehouse"):
        assert find_checkpoint(name) == find_checkpoint(str(name)) == version.resolve()
    assert BooruEmbedder.load(tmp_path / "warehouse", "cpu").embedding_dim == 16


def test_a_name_is_looked_up_in_the_cache(trained: Trained, cache: Path) -> None:
    repository = cache / "models--somebody--booru"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(trained.checkpoint, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    assert find_checkpoint("somebody/booru").samefile(snapshot)
    assert BooruEmbedder.load("somebody/booru", "cpu").embed("1girl").shape == (1, 16)
    own = Path(shutil.copytree(trained.checkpoint, "somebody/booru"))
    assert find_checkpoint("somebody/booru") == own.resolve()


def test_a_name_that_is_nowhere_is_an_error_with_the_remedy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("somebody/booru", "a/b--c"):
        with pytest.raises(CheckpointError) as caught:
            BooruEmbedder.load(name)
        assert str(caught.value).startswith(f"{name}: neither a folder nor in the Hub's local cache; ")
        assert str(caught.value).endswith(f"fetch it first: hf download {name}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"^a/b: no such folder; huggingface_hub is needed .*booru-embed\[hub\]"):
        find_checkpoint("a/b")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../a", "/a/b"])
def test_what_is_no_name_is_left_to_the_reader(cache: Path, name: str) -> None:
    assert find_checkpoint(name) == Path(name)
    with pytest.raises(CheckpointError, match="no such file; give the folder of a checkpoint"):
        BooruEmbedder.load(name)
