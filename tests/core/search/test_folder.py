"""The files of a folder for search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from booru_embed_core.search.folder import IndexMetadata, part_name, part_vectors, read_metadata, read_vectors
from tests.core.search_helpers import PART_POSTS


def test_metadata_are_read_as_they_were_written(tmp_path: Path) -> None:
    metadata = IndexMetadata(1, 3, 16, "0" * 64, 64, 2, 0.98, "faiss", {"a": 1})
    metadata.write(tmp_path)
    assert read_metadata(tmp_path) == metadata
    assert json.loads((tmp_path / "search.json").read_text())["num_posts"] == 3


def test_all_vectors_are_those_of_the_parts(search_folder: Path) -> None:
    vectors = read_vectors(search_folder)
    assert vectors.shape == (300, 16)
    assert np.array_equal(vectors[PART_POSTS : 2 * PART_POSTS], part_vectors(search_folder / part_name(1)))
