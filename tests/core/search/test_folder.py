"""The files of a folder for search."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest

from booru_embed_core.json_files import content_checksum
from booru_embed_core.search.folder import (
    MAPPED_FILES,
    METADATA_FILE,
    IndexMetadata,
    UnverifiedWarning,
    part_name,
    part_vectors,
    read_metadata,
    read_vectors,
    verify_files,
)
from booru_embed_core.search.near_duplicates import near_duplicates
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.search.vector_index import SearchError
from booru_embed_core.version_file import content_version
from tests.core.search_helpers import PART_POSTS


def test_metadata_are_read_as_they_were_written(tmp_path: Path) -> None:
    names = (*MAPPED_FILES, part_name(0), part_name(1))
    metadata = IndexMetadata(
        num_posts=100,
        dim=16,
        vocab_hash="0" * 64,
        part_posts=64,
        nprobe=2,
        recall=0.98,
        index="faiss",
        file_bytes=dict.fromkeys(names, 1),
        sha256=dict.fromkeys(names, "a" * 64),
    )
    metadata.write(tmp_path)
    read = read_metadata(tmp_path)
    assert read.model_copy(update={"checksum": None}) == metadata
    assert json.loads((tmp_path / "search.json").read_text())["num_posts"] == 100


WRONG: dict[str, list[object]] = {
    "num_posts": [None, 0, -1, "300", 300.0, True, 10**50, 1 << 39, 1],
    "dim": [None, 0, -1, "16", 1 << 30],
    "vocab_hash": [None, 1],
    "part_posts": [0, 1, -64, None, 1 << 40],
    "nprobe": [0, "2", None, 1 << 40],
    "recall": [None, "1"],
    "index": [None, 3],
    "file_bytes": [[], None, {}, {"tags.arrow": 1}, {"../tags.arrow": 1}, {"tags.arrow": -1}, {"tags.arrow": "1"}],
    "sha256": [[], {}, {"tags.arrow": "a" * 64}, {"tags.arrow": 1}],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_type_or_size_is_named(copied: Path, key: str) -> None:
    file = copied / METADATA_FILE
    whole = json.loads(file.read_text())
    for value in WRONG[key]:
        content = {**whole, key: value}
        file.write_text(json.dumps({**content, "checksum": content_checksum(content)}))
        with pytest.raises(SearchError) as caught:
            PostSearch.open(copied)
        assert str(caught.value).startswith(f"{file}: ")
        assert str(caught.value).endswith("; rebuild it with `booru-embed index`")
        assert len(str(caught.value)) < len(str(file)) + 400


def test_any_changed_figure_of_the_metadata_is_noticed(copied: Path) -> None:
    file = copied / METADATA_FILE
    text = file.read_text()
    for key, value in json.loads(text).items():
        if isinstance(value, int | float):
            file.write_text(text.replace(f'"{key}": {value}', f'"{key}": {value + 1}'))
            with pytest.raises(SearchError, match=r"search\.json: "):
                PostSearch.open(copied)
    file.write_text("[" * 100_000)
    with pytest.raises(SearchError, match=r"search\.json: is nested too deeply; rebuild"):
        PostSearch.open(copied)


@pytest.mark.parametrize("name", [*MAPPED_FILES, part_name(1)])
def test_any_flipped_bit_is_refused_by_name_before_it_is_served(copied: Path, name: str) -> None:
    file, random = copied / name, Random(18)
    whole = file.read_bytes()
    for _ in range(8):
        at = random.randrange(len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << random.randrange(8)]) + whole[at + 1 :])
        with pytest.raises(
            SearchError, match=rf"{name}: was changed: its SHA-256 is not that in search\.json; rebuild"
        ):
            PostSearch.open(copied).vectors([PART_POSTS + 1])
        with pytest.raises(SearchError, match=rf"{name}: was changed"):
            near_duplicates(PostSearch.open(copied), 0.9)


@pytest.mark.parametrize("name", MAPPED_FILES)
def test_a_folder_of_an_older_build_never_ends_in_another_error(copied: Path, name: str) -> None:
    unseal(copied)
    with pytest.warns(UnverifiedWarning, match=r"search\.json: lists no checksums, so a changed bit is not noticed"):
        assert not verify_files(copied, read_metadata(copied))
    file, random = copied / name, Random(18)
    whole = file.read_bytes()
    for _ in range(12):
        at = random.randrange(len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << random.randrange(8)]) + whole[at + 1 :])
        with contextlib.suppress(SearchError), pytest.warns(UnverifiedWarning):
            PostSearch.open(copied)


def test_a_folder_of_an_older_build_is_covered_where_its_version_is(copied: Path) -> None:
    unseal(copied)
    names = sorted(file.name for file in copied.iterdir())
    version = {"asset": "post_embeddings", "version": content_version(copied, names), "inputs": {}, "files": names}
    (copied / "version.json").write_text(json.dumps(version))
    assert verify_files(copied, read_metadata(copied))
    PostSearch.open(copied)
    file = copied / part_name(0)
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        SearchError, match=r"search\.json: was changed since .*another file of the version: index\.faiss"
    ):
        PostSearch.open(copied)


def unseal(folder: Path) -> None:
    """Takes the checksums out of ``search.json``, as builds before 0.3 wrote it."""
    values = json.loads((folder / METADATA_FILE).read_text())
    del values["sha256"], values["checksum"]
    (folder / METADATA_FILE).write_text(json.dumps(values))


@pytest.fixture
def copied(search_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(search_folder, tmp_path / "copied"))


def test_all_vectors_are_those_of_the_parts(search_folder: Path) -> None:
    vectors = read_vectors(search_folder)
    assert vectors.shape == (300, 16)
    assert np.array_equal(vectors[PART_POSTS : 2 * PART_POSTS], part_vectors(search_folder / part_name(1)))
