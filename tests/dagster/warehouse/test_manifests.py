"""A version is its content, its manifest says so, and what is damaged is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
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
    version = content_version(draft, ["tags.txt"])
    manifest = Manifest(asset="vocab", version=version, inputs={"posts": "p"}, files=["tags.txt"], created="2026-01-01")
    (draft / MANIFEST).write_text(manifest.to_json())
    return draft.rename(parent / manifest.version), manifest


def test_what_was_written_is_read_and_is_intact(tmp_path: Path) -> None:
    folder, manifest = write_version(tmp_path)
    for found in (read_manifest(folder), manifest_if_there(folder)):
        assert found is not None
        assert found.model_dump(exclude={"checksum"}) == manifest.model_dump(exclude={"checksum"})
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


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda _: "{", "is not JSON"),
        (lambda _: "[" * 100_000, "is nested too deeply"),
        (lambda _: "[]", "should be an object"),
        (lambda values: json.dumps({"asset": "vocab"}), "lacks version"),
        (lambda values: json.dumps({**values, "inputs": ["x"]}), "inputs: "),
        (lambda values: json.dumps({**values, "created": None}), "created = None"),
        (lambda values: json.dumps({**values, "files": ["../../tags.txt"]}), r"files\.0 = '../../tags.txt'"),
        (lambda values: json.dumps({**values, "files": ["/etc/passwd"]}), r"files\.0 = '/etc/passwd'"),
        (lambda values: json.dumps({**values, "version": "../../home"}), r"is of the version '../../home', not of "),
        (lambda values: json.dumps({**values, "version": "0" * 9999}), "is of the version '0{59}…', not of "),
        (lambda values: json.dumps({**values, "version": "0" * 16}), "is of the version '0000000000000000', not of "),
    ],
)
def test_what_is_no_manifest_is_named_with_the_remedy(
    tmp_path: Path, change: Callable[[dict[str, object]], str], problem: str
) -> None:
    folder, manifest = write_version(tmp_path)
    (folder / MANIFEST).write_text(change(manifest.model_dump(exclude={"checksum"})))  # as before there were checksums
    for read in (read_manifest, manifest_if_there):
        with pytest.raises(
            WarehouseError, match=rf"version\.json: .*{problem}.*, or remove the folder {folder}$"
        ) as told:
            read(folder)
        assert "\n" not in str(told.value)
    assert not is_intact(folder)


def test_a_changed_manifest_is_noticed_and_one_of_an_older_build_has_no_checksum(tmp_path: Path) -> None:
    folder, _ = write_version(tmp_path)
    file = folder / MANIFEST
    written = file.read_text()
    file.write_text(written.replace('"posts": "p"', '"posts": "q"'))
    with pytest.raises(WarehouseError, match="was changed: its content has another checksum"):
        read_manifest(folder)
    values = json.loads(written)
    del values["checksum"]
    file.write_text(json.dumps(values))
    assert read_manifest(folder).inputs == {"posts": "p"}
    assert is_intact(folder)


def test_none_is_an_error_or_none(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match=r"version\.json: no such file; restore it from a copy, or remove"):
        read_manifest(tmp_path)
    assert manifest_if_there(tmp_path) is None
