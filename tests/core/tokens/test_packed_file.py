"""The packed file: readable by safetensors, mmapped by `PackedFile`, and refused if damaged."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from booru_embed_core.schema import NUM_CATEGORIES
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import (
    TENSOR_TYPES,
    PackedFile,
    PackedFileError,
)
from booru_embed_core.tokens.packed_writer import packed_metadata, write_packed_file
from booru_embed_core.tokens.splits import split_ids
from tests.core.export_helpers import Walked

HASH = "ab" * 32
SPLIT = TokensSettings(validation_share=0.1, test_share=0.2, split_key="k\u00e9y \"'\\")


def small_arrays() -> dict[str, Any]:
    return {
        "tokens": np.array([0, 3, 1, 2], dtype=np.uint16),
        "offsets": np.array([0, 3, 3, 4], dtype=np.uint64),
        "field_lengths": np.array([[2, 0, 1, 0, 0], [0] * 5, [0, 0, 0, 0, 1]], dtype=np.uint16),
        "post_id": np.array([-1, 2**62, 7], dtype=np.int64),
        "rating": np.array([0, 3, 1], dtype=np.uint8),
        "score": np.array([-5, 0, 2**31 - 1], dtype=np.int32),
    }


def write_small(path: Path, **changed: Any) -> Path:
    arrays = small_arrays() | changed
    metadata = packed_metadata(HASH, len(arrays["post_id"]), len(arrays["tokens"]), SPLIT)
    write_packed_file(path, arrays, metadata)
    return path


def test_a_written_file_opens_as_it_was(tmp_path: Path) -> None:
    packed = PackedFile.open(write_small(tmp_path / "t.safetensors"), HASH)
    for name, array in small_arrays().items():
        read = getattr(packed, name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
        assert not read.flags.writeable
        assert read.ctypes.data % read.itemsize == 0
    assert (packed.num_posts, packed.num_tokens, packed.vocab_hash) == (3, 4, HASH)
    assert packed.split_settings == SPLIT
    assert packed.token_categories().tolist() == [0, 0, 2, 4]
    np.testing.assert_array_equal(packed.split_ids(), split_ids(small_arrays()["post_id"], SPLIT))


def test_safetensors_reads_the_same_tensors(sample: Walked) -> None:
    theirs = safetensors.numpy.load_file(sample.packed_path)
    assert set(theirs) == set(TENSOR_TYPES)
    for name, array in theirs.items():
        mapped = getattr(sample.packed, name)
        assert mapped.dtype == array.dtype
        np.testing.assert_array_equal(mapped, array)
    with safetensors.safe_open(sample.packed_path, "np") as file:
        metadata = file.metadata()
    assert metadata["vocab_hash"] == sample.vocab.hash
    assert metadata["category_order"] == "general,artist,copyright,character,meta"
    assert (metadata["num_posts"], metadata["num_tokens"]) == ("54763", str(sample.packed.num_tokens))
    assert (metadata["validation_share"], metadata["test_share"]) == ("0.05", "0.1")


def test_the_code_in_the_docs_reads_it_with_safetensors_alone(
    sample: Walked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[3] / "docs/reference/packed-file.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    assert "booru_embed" not in code[1]
    warehouse = tmp_path / "data/warehouse"
    for product, folder in (("vocab", sample.vocab_dir), ("packed_tokens", sample.packed_path.parent)):
        (warehouse / product).mkdir(parents=True)
        (warehouse / product / "current").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert "i = 0  #" in code[1]
    for post_index in (0, 1, 54_762):
        names: dict[str, Any] = {}
        exec(code[1].replace("i = 0  #", f"i = {post_index}  #"), names)
        wanted = sample.packed.record_token_ids(post_index, sample.vocab).tolist()
        assert names["token_ids"] == wanted
        assert wanted


def test_arrays_are_not_read_into_memory(sample: Walked) -> None:
    tokens = sample.packed.tokens
    assert isinstance(tokens.base, np.memmap)


def test_a_file_without_posts_or_tokens_opens(tmp_path: Path) -> None:
    nothing = {
        "tokens": np.empty(0, np.uint16),
        "offsets": np.zeros(1, np.uint64),
        "field_lengths": np.empty((0, NUM_CATEGORIES), np.uint16),
        "post_id": np.empty(0, np.int64),
        "rating": np.empty(0, np.uint8),
        "score": np.empty(0, np.int32),
    }
    packed = PackedFile.open(write_small(tmp_path / "t.safetensors", **nothing))
    assert (packed.num_posts, packed.num_tokens) == (0, 0)
    assert packed.split_ids().tolist() == []
    untagged = {"tokens": nothing["tokens"], "offsets": np.zeros(4, np.uint64), "field_lengths": np.zeros((3, 5), "u2")}
    assert PackedFile.open(write_small(tmp_path / "u.safetensors", **untagged)).num_posts == 3


def test_every_cut_is_refused(tmp_path: Path) -> None:
    content = write_small(tmp_path / "t.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(PackedFileError, match=r"cut\.safetensors: .*materialize packed_tokens again"):
            PackedFile.open(cut)
    cut.write_bytes(content[:-1])
    with pytest.raises(PackedFileError, match=r"truncated: \d+ bytes, expected \d+"):
        PackedFile.open(cut)
    cut.write_bytes(content + b"\0")
    with pytest.raises(PackedFileError, match="damaged: "):
        PackedFile.open(cut)


def test_every_flipped_bit_of_the_header_is_refused_or_harmless(tmp_path: Path) -> None:
    content = write_small(tmp_path / "t.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    flipped = tmp_path / "flipped.safetensors"
    num_opened = 0
    for place in range(end):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        flipped.write_bytes(damaged)
        try:
            packed = PackedFile.open(flipped)
        except PackedFileError:
            continue
        num_opened += 1
        assert packed.split_settings == SPLIT
        np.testing.assert_array_equal(packed.tokens, small_arrays()["tokens"])
    # Only white space between JSON tokens may change without harm.
    assert num_opened < 8


def test_every_flipped_bit_of_the_data_is_refused(tmp_path: Path) -> None:
    content = write_small(tmp_path / "t.safetensors").read_bytes()
    flipped = tmp_path / "flipped.safetensors"
    for place in range(8 + int.from_bytes(content[:8], "little"), len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            flipped.write_bytes(damaged)
            with pytest.raises(PackedFileError, match=r"flipped\.safetensors: damaged: the SHA-256 of its data "):
                PackedFile.open(flipped)


def test_a_file_of_the_format_before_is_told_as_such(tmp_path: Path) -> None:
    path = write_small(tmp_path / "t.safetensors")
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"]["format_version"] = "1"
    del header["__metadata__"]["data_sha256"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    with pytest.raises(PackedFileError, match="format_version '1' instead of 2; materialize packed_tokens again"):
        PackedFile.open(path)


def test_a_file_that_was_just_hashed_is_not_read_again(tmp_path: Path) -> None:
    path = write_small(tmp_path / "t.safetensors")
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1  # the last rating
    path.write_bytes(damaged)
    with pytest.raises(PackedFileError, match="SHA-256 of its data"):
        PackedFile.open(path)
    assert PackedFile.open(path, is_verified=True).rating.tolist() == [0, 3, 0]
    path.write_bytes(damaged[:-1])
    with pytest.raises(PackedFileError, match="truncated"):
        PackedFile.open(path, is_verified=True)


def test_splits_are_computed_once(tmp_path: Path) -> None:
    packed = PackedFile.open(write_small(tmp_path / "t.safetensors"))
    assert packed.split_ids() is packed.split_ids()
    assert not packed.split_ids().flags.writeable


def test_another_vocab_is_refused(tmp_path: Path, sample: Walked) -> None:
    path = write_small(tmp_path / "t.safetensors")
    wanted = r"t\.safetensors: was made with the vocab abababab.*, not with \w+; materialize packed_tokens again"
    with pytest.raises(PackedFileError, match=wanted):
        PackedFile.open(path, sample.vocab.hash)
    with pytest.raises(PackedFileError, match=wanted):
        PackedFile.open(path).global_token_ids(sample.vocab)


def edit(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header["__metadata__"][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.pop("__metadata__"), "it has no metadata"),
        (lambda header: header["__metadata__"].pop("split_key"), "the metadata lacks split_key"),
        (edit("format_version", "9"), "format_version '9' instead of 2"),
        (edit("category_order", "meta,general"), "category_order 'meta,general'"),
        (edit("num_posts", "4"), "wrong SHA-256"),
        (lambda header: header["tokens"].update(dtype="I32"), "wrong SHA-256"),
    ],
)
def test_a_changed_header_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    content = write_small(tmp_path / "t.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    text = json.dumps(header).encode()
    (tmp_path / "t.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    with pytest.raises(PackedFileError, match=message) as caught:
        PackedFile.open(tmp_path / "t.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "arrays", "message"),
    [
        ({"num_posts": "4"}, {}, r"damaged header: offsets is U64 \[4\], expected U64 \[5\]"),
        ({"num_tokens": "x"}, {}, "damaged header: num_tokens = 'x'"),
        ({"num_tokens": "9" * 5000}, {}, "damaged header: num_tokens = "),
        ({"num_tokens": "9" * 18}, {}, "tokens is U16 "),
        ({"test_share": "1.5"}, {}, "damaged header: shares '0.1', '1.5'"),
        ({"test_share": "nan"}, {}, "damaged header: shares"),
        ({}, {"tokens": np.zeros(4, np.int64)}, r"tokens is I64 \[4\], expected U16 or U32 \[4\]"),
        ({}, {"score": np.zeros((3, 1), np.int32)}, r"score is I32 \[3, 1\], expected I32 \[3\]"),
        ({}, {"extra": np.zeros(1, np.uint8)}, "holds the tensors extra, field_lengths"),
        ({}, {"two\nlines": np.zeros(1, np.uint8)}, "holds the tensors .*, two lines"),
        ({}, {"offsets": np.array([0, 2, 3, 4], np.uint64)}, "offsets and field_lengths disagree"),
        ({}, {"offsets": np.array([1, 3, 3, 4], np.uint64)}, "offsets and field_lengths disagree"),
        ({}, {"rating": np.array([0, 4, 0], np.uint8)}, "rating 4, expected 0 to 3"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    tmp_path: Path, metadata: dict[str, str], arrays: dict[str, Any], message: str
) -> None:
    path = tmp_path / "t.safetensors"
    write_packed_file(path, small_arrays() | arrays, packed_metadata(HASH, 3, 4, SPLIT) | metadata)
    with pytest.raises(PackedFileError, match=message) as caught:
        PackedFile.open(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"\0" * 64, b"\xff" * 64, (4).to_bytes(8, "little") + b"[[[[", (2).to_bytes(8, "little") + b"[]"],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises(PackedFileError, match=r"t\.safetensors: (not a packed file|truncated)"):
        PackedFile.open(path)


def test_a_header_nested_beyond_measure_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes((500_000).to_bytes(8, "little") + b"[" * 500_000)
    with pytest.raises(PackedFileError, match="its header is not JSON"):
        PackedFile.open(path)


def test_a_header_with_a_key_twice_and_a_pipe_are_refused(tmp_path: Path) -> None:
    text = b'{"tokens": {}, "tokens": {}}'
    (tmp_path / "twice").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(PackedFileError, match="twice: not a packed file: its header is not JSON"):
        PackedFile.open(tmp_path / "twice")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PackedFileError, match=r"pipe: cannot be read \(not a plain file\)"):
        PackedFile.open(tmp_path / "pipe")


def test_a_model_is_no_packed_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros((2, 2), np.float32)}, path)
    with pytest.raises(PackedFileError, match=r"model\.safetensors: not a packed file: it has no metadata"):
        PackedFile.open(path)


def test_a_missing_file_or_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(PackedFileError, match="no such packed file; materialize packed_tokens"):
        PackedFile.open(tmp_path / "none.safetensors")
    with pytest.raises(PackedFileError, match="cannot be read"):
        PackedFile.open(tmp_path)


def test_global_ids_are_offset_by_category_and_bounded(tmp_path: Path) -> None:
    vocab = Vocab(tuple("abcdxym"), np.array([0, 0, 0, 0, 2, 2, 4], dtype=np.uint8), np.ones(7, dtype=np.int64))
    metadata = packed_metadata(vocab.hash, 3, 4, SPLIT)
    path = tmp_path / "t.safetensors"
    write_packed_file(path, small_arrays() | {"tokens": np.array([0, 3, 1, 0], np.uint16)}, metadata)
    packed = PackedFile.open(path, vocab.hash)
    token_ids = packed.global_token_ids(vocab)
    assert token_ids.dtype == np.int32
    assert [vocab.tags[token_id - vocab.num_special] for token_id in token_ids] == ["a", "d", "y", "m"]
    for post_index in range(3):
        start, end = packed.offsets[post_index], packed.offsets[post_index + 1]
        np.testing.assert_array_equal(packed.record_token_ids(post_index, vocab), token_ids[start:end])
    write_packed_file(path, small_arrays(), metadata)
    with pytest.raises(PackedFileError, match="a token lies beyond its category's vocabulary"):
        PackedFile.open(path).global_token_ids(vocab)
