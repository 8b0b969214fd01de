"""A version is its content, its manifest says so, and what is damaged is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_dagster.warehouse.manifests import (
    MANIFEST,
    Manifest,
    WarehouseError,
    content_version,
    is_intact,
    manifest_if_there,
    read_manifest,
)

contents = st.dictionaries(
    st.text("ab/", min_size=1, max_size=4).filter(lambda name: "/" not in name), st.binary(max_size=6), min_size=1
)


@given(contents, contents)
def test_the_version_is_the_content(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, bytes], two: dict[str, bytes]
) -> None:
    def version(files: dict[str, bytes]) -> str:
        folder = tmp_path_factory.mktemp("content")
        for name, content in files.items():
            (folder / name).write_bytes(content)
        result = content_version(folder, list(files))
        assert result == content_version(folder, list(reversed(files)))
        shutil.rmtree(folder)
        return result

    assert (version(one) == version(two)) == (one == two)


def write_version(parent: Path) -> tuple[Path, Manifest]:
    """A folder with one file, and its manifest."""
    draft = parent / "draft"
    draft.mkdir()
    (draft / "tags.txt").write_text("cat_ears")
    manifest = Manifest("vocab", content_version(draft, ["tags.txt"]), {"posts": "p"}, ["tags.txt"], "2026-01-01")
    (draft / MANIFEST).write_text(json.dumps(asdict(manifest)))
    return draft.rename(parent / manifest.version), manifest


def test_what_was_written_is_read_and_is_intact(tmp_path: Path) -> None:
    folder, manifest = write_version(tmp_path)
    assert read_manifest(folder) == manifest_if_there(folder) == manifest
    assert is_intact(folder)


@pytest.mark.parametrize("damage", ["content", "missing file", "name", "manifest"])
def test_what_is_damaged_is_not_intact(tmp_path: Path, damage: str) -> None:
    folder, _ = write_version(tmp_path)
    if damage == "content":
        (folder / "tags.txt").write_text("dog_ears")
    elif damage == "missing file":
        (folder / "tags.txt").unlink()
    elif damage == "name":
        folder = folder.rename(tmp_path / "another")
    else:
        (folder / MANIFEST).write_text("{")
    assert not is_intact(folder)


@pytest.mark.parametrize("content", ["{", '{"asset": "vocab"}', "[]"])
def test_what_is_no_manifest_is_named_with_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    for read in (read_manifest, manifest_if_there):
        with pytest.raises(WarehouseError, match=r"version\.json: not a version manifest .*; remove the folder "):
            read(tmp_path)


def test_none_is_an_error_or_none(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="not a version manifest"):
        read_manifest(tmp_path)
    assert manifest_if_there(tmp_path) is None
