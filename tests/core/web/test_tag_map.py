"""The map has the coordinates of the checkpoint's table, or the principal components of its embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.export.tag_vectors import embeddings_table
from booru_embed_core.web.tag_map import TagMapError, tag_map
from tests.core.model_helpers import Trained


def write(table: pa.Table, tmp_path: Path) -> Path:
    file = tmp_path / "tag_embeddings.parquet"
    pq.write_table(table, file)
    return file


def with_xy(table: pa.Table) -> pa.Table:
    """Coordinates that tell the row; the last tag has none."""
    rows = [*map(float, range(len(table) - 1)), None]
    return table.append_column("x", pa.array(rows, pa.float32())).append_column("y", pa.array(rows[::-1], pa.float32()))


def test_places_are_those_of_the_table_and_tags_without_are_left_out(
    search_embedder: BooruEmbedder, tmp_path: Path
) -> None:
    table = with_xy(embeddings_table(search_embedder))
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    found = tag_map(search_embedder, write(shuffled, tmp_path))
    tags = search_embedder.vocab.tags
    assert {tags[i]: x for i, x in zip(found.tag_indices, found.points[:, 0], strict=True)} == {
        tag: row for row, tag in enumerate(tags[:-1]) if row
    }


def test_without_a_table_the_farthest_apart_are_far_apart(search_embedder: BooruEmbedder) -> None:
    found, vectors = tag_map(search_embedder), search_embedder.tag_embeddings()
    assert found.tag_indices.tolist() == list(range(len(vectors)))
    singular = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(found.points, axis=0), singular[:2], rtol=1e-3)


def test_many_tags_are_kept_in_half_precision(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, by_table, alone = (BooruEmbedder.load(trained.checkpoint, "cpu", "fp32") for _ in range(3))
    table = write(with_xy(embeddings_table(whole)), tmp_path)
    monkeypatch.setattr("booru_embed_core.web.tag_map._HALVED_BYTES", 0)
    tag_map(by_table, table)
    tag_map(alone)
    expected = {one.tag: one.similarity for one in whole.similar_tags("cat_ears", 10_000)}
    for halved in (by_table, alone):
        assert halved.tag_vectors().dtype == np.float16
        assert halved.tag_embeddings().dtype == np.float32
        found = {one.tag: one.similarity for one in halved.similar_tags("cat_ears", 10_000)}
        assert found == pytest.approx(expected, abs=5e-3)


def test_a_table_of_another_checkpoint_is_refused(search_embedder: BooruEmbedder, tmp_path: Path) -> None:
    table = with_xy(embeddings_table(search_embedder))
    turned = np.roll(search_embedder.tag_embeddings(), 1, axis=1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(turned.reshape(-1)), turned.shape[1])
    others = {
        "vectors": table.set_column(table.schema.get_field_index("vector"), "vector", column),
        "tags": table.set_column(0, "tag", pa.array([f"{tag}_2" for tag in table["tag"].to_pylist()])),
    }
    for other in others.values():
        with pytest.raises(TagMapError, match=r"of another checkpoint; materialize tag_embeddings again"):
            tag_map(search_embedder, write(other, tmp_path))


def test_a_table_without_places_is_refused(search_embedder: BooruEmbedder, tmp_path: Path) -> None:
    with pytest.raises(TagMapError, match=r"tag_embeddings\.parquet: no coordinates of tags"):
        tag_map(search_embedder, write(embeddings_table(search_embedder), tmp_path))
