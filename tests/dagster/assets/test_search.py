"""The asset `post_embeddings`."""

from __future__ import annotations

from pathlib import Path

import pytest

from booru_embed_core import BooruEmbedder
from booru_embed_core.search import build as post_vectors
from booru_embed_core.search.post_search import PostSearch
from tests.dagster.asset_helpers import Built, metadata
from tests.dagster.project_helpers import versions


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
        patch.setattr(post_vectors, "_write_part", lambda *_: pytest.fail("a finished part was rebuilt"))
        result = project.materialize("post_embeddings")
    assert result.success
    product = project.warehouse.current("post_embeddings")
    assert {name: (product.path / name).read_bytes() for name in written} == written
    assert list((home / ".work").iterdir()) == []
    assert metadata(result, "post_embeddings")["dagster/row_count"] == 400
    embedder = BooruEmbedder.load(project.warehouse.current("checkpoint").path, "cpu")
    assert len(PostSearch.open(product.path).search(embedder, "1girl", 7)) == 7
