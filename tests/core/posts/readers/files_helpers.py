"""Folders and archives of files that are posts, for the tests of their readers."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from booru_embed_core.posts.report import PostsReport
from tests.core import export_helpers

ReadFiles = Callable[..., tuple[PostsReport, Path]]


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def posts_of(out_dir: Path, *, ids: bool = False) -> dict[str, dict[str, object]]:
    """The posts by the paths of their files, with the categories that have tags."""
    posts = {post["id"]: post for file in sorted(out_dir.glob("part-*")) for post in pq.read_table(file).to_pylist()}
    paths = pq.read_table(out_dir / "paths.parquet").to_pylist()
    assert [row["id"] for row in paths] == list(posts)
    return {
        row["path"]: {key: value for key, value in posts[row["id"]].items() if (ids or key != "id") and value != []}
        for row in paths
    }


def read_rejects(out_dir: Path) -> list[tuple[int, str, str]]:
    return [(row["line"], row["reason"], row["raw"]) for row in export_helpers.read_rejects(out_dir)]  # type: ignore[misc]


def tags_of(out_dir: Path) -> dict[str, object]:
    return {path: post.get("general", []) for path, post in posts_of(out_dir).items()}


def tar_of(files: Mapping[str, str | bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
