"""The packed file: every post's tags as local ids, mmapped, in one safetensors file that any language can read.

============== ============ =====================================================================================
tokens         u16 or u32   ``[num_tokens]`` local ids, record after record, within one category after category
offsets        u64          ``[num_posts + 1]`` where each record's tokens start
field_lengths  u16          ``[num_posts, 5]`` tags of each category, in schema order
post_id        i64          ``[num_posts]``
rating         u8           ``[num_posts]`` index into `RATINGS`
score          i32          ``[num_posts]``
============== ============ =====================================================================================

With ``[tokens] drop_implied`` a record lacks tags that another of its tags implies; ``restored.py`` gives them back.

The safetensors library's numpy interface copies every tensor into memory, so the header is parsed here. The metadata
holds SHA-256 hashes of the data and of the header: a file with one changed bit is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.errors import cannot_be_read, one_line, shown
from booru_embed_core.filesystem import open_regular
from booru_embed_core.json_files import loads
from booru_embed_core.schema import CATEGORIES, NUM_CATEGORIES, RATINGS
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.splits import split_ids

FORMAT_VERSION: Final = 2
PACKED_FILE: Final = "tokens.safetensors"
CATEGORY_ORDER: Final = ",".join(CATEGORIES)
_MAX_HEADER_BYTES: Final = 1 << 20
_REMEDY: Final = "materialize packed_tokens again"

DTYPES: Final = {"U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I32": "<i4", "I64": "<i8"}
TENSOR_TYPES: Final = {
    "tokens": ("U16", "U32"),
    "offsets": ("U64",),
    "field_lengths": ("U16",),
    "post_id": ("I64",),
    "rating": ("U8",),
    "score": ("I32",),
}
IMPLICATIONS_KEY: Final = "implications_sha256"
"""The key of the metadata of a file whose records lack implied tags."""
_METADATA_KEYS: Final = (
    "format_version",
    "vocab_hash",
    "category_order",
    "num_posts",
    "num_tokens",
    "validation_share",
    "test_share",
    "split_key",
    "data_sha256",
    "header_sha256",
)

Tokens = NDArray[np.uint16] | NDArray[np.uint32]
RECORD_FIELDS: Final = np.dtype(
    {
        "names": ["field_lengths", "rating", "score"],
        "formats": [(np.uint16, NUM_CATEGORIES), np.uint8, np.int32],
        "offsets": [0, 10, 12],
        "itemsize": 16,  # numpy's take copies 16 bytes as one word, and they never straddle a cache line
    }
)


class PackedFileError(ValueError):
    """A packed file is unusable. The message names the file, the fault and the remedy in one line."""


@dataclass(frozen=True)
class PackedFile:
    """An open packed file; the arrays are read-only views of the file (see the module for shapes and dtypes)."""

    path: Path
    tokens: Tokens
    offsets: NDArray[np.uint64]
    field_lengths: NDArray[np.uint16]
    post_id: NDArray[np.int64]
    rating: NDArray[np.uint8]
    score: NDArray[np.int32]
    vocab_hash: str
    split_settings: TokensSettings
    implications_sha256: str | None = None
    """Of the implications whose effects the records lack; None if they hold all tags of the posts."""

    @property
    def num_posts(self) -> int:
        """Records in the file."""
        return len(self.post_id)

    @property
    def num_tokens(self) -> int:
        """Tags of all records."""
        return len(self.tokens)

    @classmethod
    def open(cls, path: Path, vocab_hash: str | None = None, *, is_verified: bool = False) -> PackedFile:
        """The packed file at `path`, mmapped. With `vocab_hash`, it must have been made with that vocabulary.

        The file is read once to verify its hash: 0.6 CPU seconds per gigabyte, in constant memory. With `is_verified`,
        which is for a file that this process has just written and hashed, only its header and offsets are.

        Raises:
            PackedFileError: no such file, not a packed file, truncated or damaged, or made with another vocabulary.
        """
        header, data_start = _read_header(path)
        metadata = _checked_metadata(path, header)
        del header["__metadata__"]
        arrays = _map_tensors(path, header, data_start, metadata)
        if not is_verified:
            _check_data(path, data_start, metadata["data_sha256"])
        _check_content(path, arrays)
        if vocab_hash is not None:
            _check_vocab_hash(path, metadata["vocab_hash"], vocab_hash)
        return cls(
            path=path,
            vocab_hash=metadata["vocab_hash"],
            split_settings=_split_settings(path, metadata),
            implications_sha256=metadata.get(IMPLICATIONS_KEY),
            **arrays,
        )

    @cached_property
    def records(self) -> pa.LargeBinaryArray:
        """Each record's tokens as bytes, ``[num_posts]``: Arrow's view of the mapped tokens, not a copy.

        Its ``take`` copies whole records, four times as fast as numpy gathers single tokens. It needs offsets in bytes
        instead of tokens: 8 bytes per record in memory, computed on first access.
        """
        ends = self.offsets.astype(np.int64) * self.tokens.itemsize
        buffers = [None, pa.py_buffer(ends.data), pa.py_buffer(self.tokens.data)]
        array = pa.Array.from_buffers(pa.large_binary(), self.num_posts, buffers)
        assert isinstance(array, pa.LargeBinaryArray)
        return array

    @cached_property
    def record_fields(self) -> NDArray[np.void]:
        """Field lengths, rating and score of each record side by side, ``[num_posts]`` of `RECORD_FIELDS`.

        A random record then costs one cache miss instead of three. The copy takes 16 bytes per record and is made on
        first access.
        """
        fields = np.zeros(self.num_posts, RECORD_FIELDS)
        for name in RECORD_FIELDS.names or ():
            fields[name] = getattr(self, name)
        return fields

    def split_ids(self) -> NDArray[np.uint8]:
        """Each record's index into `SPLITS`, uint8 `[num_posts]`; computed at the first call, read-only."""
        return self._split_ids

    @cached_property
    def _split_ids(self) -> NDArray[np.uint8]:
        ids = split_ids(self.post_id, self.split_settings)
        ids.flags.writeable = False
        return ids

    def token_categories(self) -> NDArray[np.uint8]:
        """Each token's category_id, uint8 `[num_tokens]`."""
        ids = np.tile(np.arange(NUM_CATEGORIES, dtype=np.uint8), self.num_posts)
        return np.repeat(ids, self.field_lengths.ravel())

    def global_token_ids(self, vocab: Vocab) -> NDArray[np.int32]:
        """Each token's token_id in `vocab`, int32 `[num_tokens]`.

        Raises:
            PackedFileError: the file was made with another vocabulary, or holds an id beyond it.
        """
        self.check_vocab(vocab)
        self.check_local_ids(self.tokens, self.field_lengths, vocab)
        return vocab.category_offsets.astype(np.int32)[self.token_categories()] + self.tokens.astype(np.int32)

    def check_vocab(self, vocab: Vocab) -> None:
        """Checks that the file was made with `vocab`.

        Raises:
            PackedFileError: it was made with another vocabulary.
        """
        _check_vocab_hash(self.path, self.vocab_hash, vocab.hash)

    def check_local_ids(self, tokens: NDArray[Any], field_lengths: NDArray[Any], vocab: Vocab) -> None:
        """Checks that `vocab` has all local ids of some records.

        Args:
            tokens: local ids ``[T]`` of the records, in the file's order.
            field_lengths: ``[N, 5]`` of the same records.
            vocab: the vocabulary that the file was made with.

        Raises:
            PackedFileError: an id lies beyond its category's vocabulary.
        """
        sizes = np.diff(vocab.category_offsets).astype(np.uint32)
        if np.any(tokens >= np.repeat(np.tile(sizes, len(field_lengths)), field_lengths.ravel())):
            raise PackedFileError(f"{self.path}: damaged: a token lies beyond its category's vocabulary; {_REMEDY}")

    def record_token_ids(self, post_index: int, vocab: Vocab) -> NDArray[np.int64]:
        """The token_ids of one record, int64 `[tags]`; for inspecting single posts, not for training."""
        start, end = int(self.offsets[post_index]), int(self.offsets[post_index + 1])
        starts = np.repeat(vocab.category_offsets[:-1], self.field_lengths[post_index])
        return starts + self.tokens[start:end].astype(np.int64)


def record_lengths(field_lengths: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Tags of each record, uint64 ``[n]``, of its `field_lengths` ``[n, 5]``."""
    lengths = field_lengths[:, 0].astype(np.uint64)
    for category_id in range(1, NUM_CATEGORIES):  # numpy's sum over so short an axis takes eight times as long
        lengths += field_lengths[:, category_id]
    return lengths


def header_sha256(header: Mapping[str, Any]) -> str:
    """SHA-256 of a header without this hash: no other check would notice a flipped bit in a split's share."""
    metadata = {key: value for key, value in header["__metadata__"].items() if key != "header_sha256"}
    return hashlib.sha256(json.dumps({**header, "__metadata__": metadata}, sort_keys=True).encode()).hexdigest()


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header of `path` and the byte at which data starts."""
    try:
        with open_regular(path) as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= _MAX_HEADER_BYTES:
                raise PackedFileError(f"{path}: not a packed file: no safetensors header at its start; {_REMEDY}")
            text = stream.read(length)
    except FileNotFoundError:
        raise PackedFileError(f"{path}: no such packed file; materialize packed_tokens") from None
    except OSError as error:
        raise PackedFileError(f"{path}: {cannot_be_read(error, 'check the path')}") from None
    if len(text) < length:
        raise PackedFileError(f"{path}: truncated within its header; {_REMEDY}")
    try:
        header = loads(text)
    except (ValueError, RecursionError):
        raise PackedFileError(f"{path}: not a packed file: its header is not JSON; {_REMEDY}") from None
    if not isinstance(header, dict):
        raise PackedFileError(f"{path}: not a packed file: its header is not a JSON object; {_REMEDY}")
    return header, 8 + length


def _checked_metadata(path: Path, header: Mapping[str, Any]) -> dict[str, str]:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict):
        raise PackedFileError(f"{path}: not a packed file: it has no metadata; {_REMEDY}")
    found = metadata.get("format_version")
    if isinstance(found, str) and found != str(FORMAT_VERSION):
        raise PackedFileError(f"{path}: format_version {found[:20]!r} instead of {FORMAT_VERSION}; {_REMEDY}")
    for key in _METADATA_KEYS:
        if not isinstance(metadata.get(key), str):
            raise PackedFileError(f"{path}: not a packed file: the metadata lacks {key}; {_REMEDY}")
    if metadata["category_order"] != CATEGORY_ORDER:
        raise PackedFileError(
            f"{path}: category_order {shown(metadata['category_order'])} instead of {CATEGORY_ORDER!r}; {_REMEDY}"
        )
    if metadata["header_sha256"] != header_sha256(header):
        raise PackedFileError(f"{path}: damaged header: wrong SHA-256; {_REMEDY}")
    for key in ("num_posts", "num_tokens"):
        if not (metadata[key].isascii() and metadata[key].isdigit() and len(metadata[key]) < 19):
            raise PackedFileError(f"{path}: damaged header: {key} = {shown(metadata[key])}; {_REMEDY}")
    return metadata


def _check_vocab_hash(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise PackedFileError(f"{path}: was made with the vocab {found[:16]}, not with {expected[:16]}; {_REMEDY}")


def _split_settings(path: Path, metadata: Mapping[str, str]) -> TokensSettings:
    try:
        return TokensSettings(
            validation_share=float(metadata["validation_share"]),
            test_share=float(metadata["test_share"]),
            split_key=metadata["split_key"],
            drop_implied=IMPLICATIONS_KEY in metadata,
        )
    except ValueError:
        raise PackedFileError(
            f"{path}: damaged header: shares {shown(metadata['validation_share'])}, {shown(metadata['test_share'])}; "
            f"{_REMEDY}"
        ) from None


def _map_tensors(path: Path, header: Mapping[str, Any], data_start: int, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The tensors as read-only memory maps, after checks of their types, shapes and sizes."""
    if set(header) != set(TENSOR_TYPES):
        raise PackedFileError(
            f"{path}: not a packed file: holds the tensors {one_line(', '.join(sorted(header)), 200)}; {_REMEDY}"
        )
    num_posts, num_tokens = int(metadata["num_posts"]), int(metadata["num_tokens"])
    shapes = {
        "tokens": (num_tokens,),
        "offsets": (num_posts + 1,),
        "field_lengths": (num_posts, NUM_CATEGORIES),
    }
    end = 0
    spans = {}
    for name in sorted(header, key=lambda name: _start_of(path, name, header[name])):
        entry, shape = header[name], shapes.get(name, (num_posts,))
        if entry.get("dtype") not in TENSOR_TYPES[name] or entry.get("shape") != list(shape):
            raise PackedFileError(
                f"{path}: damaged header: {name} is {one_line(str(entry.get('dtype')), 20)} "
                f"{shown(entry.get('shape'))}, expected {' or '.join(TENSOR_TYPES[name])} {list(shape)}; {_REMEDY}"
            )
        dtype = np.dtype(DTYPES[entry["dtype"]])
        start, end = end, end + dtype.itemsize * int(np.prod(shape, dtype=object))
        if entry["data_offsets"] != [start, end]:
            raise PackedFileError(
                f"{path}: damaged header: {name} is at {shown(entry['data_offsets'])}, expected {[start, end]}; "
                f"{_REMEDY}"
            )
        spans[name] = (data_start + start, dtype, shape)
    size = os.path.getsize(path)
    if size != data_start + end:
        kind = "truncated" if size < data_start + end else "damaged"
        raise PackedFileError(f"{path}: {kind}: {size} bytes, expected {data_start + end}; {_REMEDY}")
    return {name: _map(path, *span) for name, span in spans.items()}


def _start_of(path: Path, name: str, entry: Any) -> int:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)):
        raise PackedFileError(f"{path}: damaged header: {name} has no data_offsets; {_REMEDY}")
    return int(offsets[0])


def _map(path: Path, start: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if 0 in shape:  # an empty tensor cannot be mapped
        return np.empty(shape, dtype)
    # A plain array: slices and results of an np.memmap are np.memmaps too, which is slow.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape))


def _check_data(path: Path, data_start: int, expected: str) -> None:
    with path.open("rb") as stream:
        stream.seek(data_start)
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise PackedFileError(f"{path}: damaged: the SHA-256 of its data differs from its header's; {_REMEDY}")


def _check_content(path: Path, arrays: Mapping[str, Any]) -> None:
    """Checks that the small arrays are consistent, since another program may have written the file."""
    offsets, field_lengths, rating = arrays["offsets"], arrays["field_lengths"], arrays["rating"]
    lengths = record_lengths(field_lengths)
    if offsets[0] != 0 or offsets[-1] != len(arrays["tokens"]) or np.any(offsets[:-1] + lengths != offsets[1:]):
        raise PackedFileError(f"{path}: damaged: offsets and field_lengths disagree; {_REMEDY}")
    if len(rating) and rating.max() >= len(RATINGS):
        raise PackedFileError(f"{path}: damaged: rating {rating.max()}, expected 0 to {len(RATINGS) - 1}; {_REMEDY}")
