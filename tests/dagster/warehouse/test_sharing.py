"""Equal files of two versions are one file on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from booru_embed_dagster.warehouse import sharing
from booru_embed_dagster.warehouse.manifests import is_intact
from booru_embed_dagster.warehouse.warehouse import Product, Warehouse

SAME = b"the same posts"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MIN_SHARED_BYTES", 8)


def publish(warehouse: Warehouse, vectors: bytes) -> Product:
    with warehouse.new_version("post_embeddings") as draft:
        (draft.path / "posts.arrow").write_bytes(SAME)
        (draft.path / "index").write_bytes(vectors)
        (draft.path / "few").write_bytes(b"few")
    return draft.product


def inode(product: Product, name: str) -> int:
    return (product.path / name).stat().st_ino


def test_equal_files_are_shared_and_outlive_the_version_that_had_them_first(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, keep_versions=2)
    first, second = publish(warehouse, b"vectors 1"), publish(warehouse, b"vectors 2")
    assert inode(first, "posts.arrow") == inode(second, "posts.arrow")
    assert inode(first, "index") != inode(second, "index")
    assert inode(first, "few") != inode(second, "few")
    assert is_intact(first.path)
    assert is_intact(second.path)
    assert sorted(path.name for path in second.path.iterdir()) == ["few", "index", "posts.arrow", "version.json"]
    publish(warehouse, b"vectors 3")
    assert not first.path.exists()
    assert (second.path / "posts.arrow").read_bytes() == SAME
    assert is_intact(second.path)


def test_a_file_that_was_damaged_on_disk_is_not_taken_over(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, keep_versions=2)
    first = publish(warehouse, b"vectors 1")
    times = (first.path / "posts.arrow").stat()
    (first.path / "posts.arrow").write_bytes(SAME.swapcase())
    os.utime(first.path / "posts.arrow", ns=(times.st_atime_ns, times.st_mtime_ns))
    second = publish(warehouse, b"vectors 2")
    assert (second.path / "posts.arrow").read_bytes() == SAME
    assert is_intact(second.path)


def test_without_hard_links_a_version_has_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    warehouse = Warehouse(tmp_path, keep_versions=2)
    first, second = publish(warehouse, b"vectors 1"), publish(warehouse, b"vectors 2")
    assert inode(first, "posts.arrow") != inode(second, "posts.arrow")
    assert is_intact(second.path)
