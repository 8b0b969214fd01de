"""The posts that queries are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from booru_embed_core.search.posts_table import PostsTable
from tests.core.search.query_helpers import POSTS, table_of


@pytest.fixture(scope="session")
def posts_table(tmp_path_factory: pytest.TempPathFactory) -> PostsTable:
    folder: Path = tmp_path_factory.mktemp("posts")
    return table_of(folder, POSTS)
