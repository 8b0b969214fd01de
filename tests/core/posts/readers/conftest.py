"""Reading of an export as a whole, for readers whose posts are files."""

from __future__ import annotations

from pathlib import Path

import pytest

from booru_embed_core.posts.read_export import read_export as read_the_export
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.settings import DuckdbSettings, PostsSettings
from tests.core.posts.readers.files_helpers import ReadFiles


@pytest.fixture
def read_files(tmp_path: Path) -> ReadFiles:
    """Reads paths with these settings and gives the report and the posts' folder."""

    def call(*export: Path, preset: str | None = "caption-folder", **values: object) -> tuple[PostsReport, Path]:
        out_dir = tmp_path / f"posts-{len(list(tmp_path.iterdir()))}"
        out_dir.mkdir()
        given = {"export": tuple(map(str, export)), "preset": preset, "max_rejected_share": 0.999, **values}
        posts = PostsSettings.model_validate({key: value for key, value in given.items() if value is not None})
        return read_the_export(posts, tmp_path, out_dir, DuckdbSettings(threads=1)), out_dir

    return call
