"""The posts of the tiny corpus as a folder for search."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from booru_embed_core.search import build
from booru_embed_core.search.folder import IndexMetadata
from tests.core.model_helpers import Trained, trained

PART_POSTS = 64


def index(made: Trained, out_dir: Path, work_dir: Path, log: list[str] | None = None) -> IndexMetadata:
    """`index_posts` of the 300 posts, in parts of 64."""
    for folder in (out_dir, work_dir):
        folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "PART_POSTS", PART_POSTS)
        lines = [] if log is None else log
        return build.index_posts(
            made.checkpoint, made.corpus.packed_path, out_dir, work_dir, "cpu", "fp32", lines.append
        )


@functools.cache
def searched(base: Path) -> Path:
    """The folder, built once."""
    made = trained(base)
    index(made, base / "searched", base / "searched-work")
    return base / "searched"
