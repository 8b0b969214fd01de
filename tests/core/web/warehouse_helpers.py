"""A warehouse of two checkpoints, and what asks a server of it."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.export.tag_vectors import embeddings_table
from booru_embed_core.training.checkpoint_config import read_config, write_config
from booru_embed_core.version_file import content_version
from tests.core.model_helpers import Trained

SECONDS = 120


class Warehouse:
    """Two checkpoints of one vocabulary, with the posts and the map of the first."""

    def __init__(self, folder: Path, trained: Trained, search_folder: Path, table: Path) -> None:
        self.folder = folder
        for asset in ("checkpoint", "post_embeddings", "tag_embeddings"):
            (folder / asset).mkdir(parents=True)
        shutil.copytree(trained.checkpoint, folder / "checkpoint/v1")
        shutil.copytree(trained.checkpoint, folder / "checkpoint/v2")
        weights = load_file(folder / "checkpoint/v2/model.safetensors")
        weights["bottleneck.weight"] = weights["bottleneck.weight"].flip(0)
        metadata = {"vocab_hash": trained.corpus.vocab.hash}
        save_file(weights, folder / "checkpoint/v2/model.safetensors", metadata)
        write_config(folder / "checkpoint/v2", read_config(folder / "checkpoint/v2"), ["model.safetensors"])
        shutil.copytree(search_folder, folder / "post_embeddings/v1")
        (folder / "tag_embeddings/v1").mkdir()
        shutil.copyfile(table, folder / "tag_embeddings/v1/tag_embeddings.parquet")
        for asset in ("checkpoint", "post_embeddings", "tag_embeddings"):
            self.move(asset, "v1")

    def move(self, asset: str, version: str) -> None:
        """Moves the link ``current``, as a materialization does."""
        (self.folder / asset / ".spare").symlink_to(version)
        (self.folder / asset / ".spare").replace(self.folder / asset / "current")

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint/current"


def write_table(embedder: BooruEmbedder, file: Path) -> None:
    """Writes the table of the asset `tag_embeddings`; tags lie on a line."""
    found = embeddings_table(embedder)
    line = pa.array(np.arange(len(found), dtype=np.float32))
    pq.write_table(found.append_column("x", line).append_column("y", line), file)


def write_manifest(file: Path, inputs: dict[str, str]) -> None:
    """A manifest of the files beside it."""
    names = sorted(path.name for path in file.parent.iterdir() if path != file)
    version = content_version(file.parent, names)
    file.write_text(json.dumps({"version": version, "inputs": inputs, "files": names}))


def call(url: str, body: dict[str, object] | None = None) -> Any:
    """The JSON that `url` answers; any status but 200 raises."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
