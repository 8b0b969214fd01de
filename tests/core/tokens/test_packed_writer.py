"""The packed file, written batch by batch, is the one that is written at once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.schema import NUM_CATEGORIES
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tokens import packed_writer
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.packed_writer import PackedWriter, packed_metadata, write_packed_file

HASH = "cd" * 32
SETTINGS = TokensSettings()


def arrays_of(num_posts: int, dtype: type[Any], seed: int = 1) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 4, (num_posts, NUM_CATEGORIES)).astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(lengths.sum(axis=1))]).astype(np.uint64)
    return {
        "tokens": generator.integers(0, np.iinfo(dtype).max, int(offsets[-1])).astype(dtype),
        "offsets": offsets,
        "field_lengths": lengths,
        "post_id": generator.integers(0, 2**40, num_posts),
        "rating": generator.integers(0, 4, num_posts).astype(np.uint8),
        "score": generator.integers(-9, 99, num_posts).astype(np.int32),
    }


def write_at_once(path: Path, arrays: dict[str, Any]) -> bytes:
    sizes = (len(arrays["post_id"]), len(arrays["tokens"]))
    write_packed_file(path, arrays, packed_metadata(HASH, *sizes, SETTINGS))
    return path.read_bytes()


def write_in_batches(path: Path, arrays: dict[str, Any], ends: list[int], expected: int | None = None) -> bytes:
    scratch = path.with_suffix(".scratch")
    scratch.mkdir()
    num_posts, num_tokens = len(arrays["post_id"]), len(arrays["tokens"])
    dtype = arrays["tokens"].dtype.type
    num_expected = num_tokens if expected is None else expected
    with PackedWriter(path, scratch, HASH, num_posts, num_expected, dtype, SETTINGS) as writer:
        for start, end in zip([0, *ends], [*ends, num_posts], strict=True):
            first, last = arrays["offsets"][start], arrays["offsets"][end]
            names = ("field_lengths", "post_id", "rating", "score")
            writer.append(tokens=arrays["tokens"][first:last], **{name: arrays[name][start:end] for name in names})
    assert writer.num_tokens == num_tokens
    return path.read_bytes()


@given(
    num_posts=st.integers(0, 30),
    dtype=st.sampled_from([np.uint16, np.uint32]),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_batches_change_no_byte(
    tmp_path_factory: pytest.TempPathFactory, num_posts: int, dtype: type[Any], cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    arrays = arrays_of(num_posts, dtype)
    ends = sorted(min(cut, num_posts) for cut in cuts)
    assert write_in_batches(folder / "a", arrays, ends) == write_at_once(folder / "b", arrays)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("expected", [0, 10**6, 10**17])
@pytest.mark.parametrize("move_bytes", [64, 1 << 20])
def test_another_number_of_tokens_than_expected_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type[Any], expected: int, move_bytes: int
) -> None:
    monkeypatch.setattr(packed_writer, "_MOVE_BYTES", move_bytes)
    arrays = arrays_of(200, dtype)
    wanted = write_at_once(tmp_path / "wanted", arrays)
    assert write_in_batches(tmp_path / "found", arrays, [70, 130], expected) == wanted
    packed = PackedFile.open(tmp_path / "found", HASH)
    np.testing.assert_array_equal(packed.tokens, arrays["tokens"])


def test_the_hash_is_of_all_that_follows_the_header(tmp_path: Path) -> None:
    for content in (
        write_at_once(tmp_path / "a", arrays_of(9, np.uint16)),
        write_in_batches(tmp_path / "b", arrays_of(9, np.uint32), [4]),
    ):
        start = 8 + int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8:start])["__metadata__"]
        assert metadata["data_sha256"] == hashlib.sha256(content[start:]).hexdigest()


def test_a_file_whose_writer_failed_is_refused(tmp_path: Path) -> None:
    arrays = arrays_of(9, np.uint16)
    with (
        pytest.raises(KeyError),
        PackedWriter(tmp_path / "t", tmp_path, HASH, 9, len(arrays["tokens"]), np.uint16, SETTINGS),
    ):
        raise KeyError
    with pytest.raises(ValueError, match="not a packed file"):
        PackedFile.open(tmp_path / "t")


def test_fewer_posts_than_announced_are_our_own_fault(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), PackedWriter(tmp_path / "t", tmp_path, HASH, 1, 0, np.uint16, SETTINGS):
        pass
