"""Checks of the posts' embeddings, on products that were spoilt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.search.vector_index import VectorIndex
from booru_embed_dagster.checks import search as checks
from tests.dagster.checks.check_helpers import Built, run_check
from tests.dagster.project_helpers import Project


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Project:
    return built[0].copy_to(tmp_path / "copy")


def part(project: Project) -> Path:
    return project.warehouse.current("post_embeddings").path / "part-00000.parquet"


def test_embeddings_as_they_were_made_pass(copy: Project) -> None:
    result = run_check(checks.every_post_has_its_embedding, copy)
    assert (result.passed, result.metadata["num_posts"].value) == (True, 400)
    result = run_check(checks.index_finds_the_nearest_posts, copy)
    assert result.passed
    assert 0.95 <= float(str(result.metadata["recall@10"].value)) <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0])
def test_a_vector_that_is_none_of_unit_length_fails(copy: Project, value: float) -> None:
    table = pq.read_table(part(copy))
    vectors = np.array(table["vector"].to_pylist(), np.float16)
    vectors[7, 3] = value
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=table.schema.field("vector").type)
    pq.write_table(table.set_column(3, table.schema.field("vector"), column), part(copy))
    result = run_check(checks.every_post_has_its_embedding, copy)
    assert "a vector is not of unit length; materialize post_embeddings again" in str(result.description)


def test_posts_that_are_missing_or_others_fail(copy: Project) -> None:
    table = pq.read_table(part(copy))
    pq.write_table(table.slice(0, 399), part(copy))
    assert "399 posts of 400" in str(run_check(checks.every_post_has_its_embedding, copy).description)
    pq.write_table(table.take(np.arange(400)[::-1]), part(copy))
    assert "its posts are not those of" in str(run_check(checks.every_post_has_its_embedding, copy).description)
    pq.write_table(table.rename_columns(["id", "rating", "score", "vector"]), part(copy))
    assert "columns id,rating" in str(run_check(checks.every_post_has_its_embedding, copy).description)


def test_an_index_that_misses_posts_fails(copy: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(VectorIndex, "recall", lambda *_: 0.94)
        result = run_check(checks.index_finds_the_nearest_posts, copy)
        assert "recall@10 0.940, less than 0.95" in str(result.description)
    monkeypatch.setattr(VectorIndex, "open", lambda *_: VectorIndex.build(np.eye(16, dtype=np.float16)))
    result = run_check(checks.index_finds_the_nearest_posts, copy)
    assert "16 posts of 400 in the index" in str(result.description)


def test_a_folder_that_is_cut_short_fails_with_its_line(copy: Project) -> None:
    (part(copy).parent / "tags.arrow").write_bytes(b"")
    assert "has 0 bytes instead of" in str(run_check(checks.index_finds_the_nearest_posts, copy).description)
