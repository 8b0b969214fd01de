"""Writes the packed file, at once from arrays or batch by batch. `packed_file` has the format and reads it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import NUM_CATEGORIES
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tokens.packed_file import (
    CATEGORY_ORDER,
    DTYPES,
    FORMAT_VERSION,
    IMPLICATIONS_KEY,
    header_sha256,
    record_lengths,
)

TokenDtype = type[np.uint16] | type[np.uint32]
_MOVE_BYTES: Final = 4 << 20
_TYPE_NAMES: Final = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_Layout = tuple[np.dtype[Any], tuple[int, ...]]
"""The dtype and shape of a tensor."""


def packed_metadata(
    vocab_hash: str, num_posts: int, num_tokens: int, settings: TokensSettings, implications_sha256: str | None = None
) -> dict[str, str]:
    """The metadata of a packed file, as strings, which safetensors requires."""
    return {
        "format_version": str(FORMAT_VERSION),
        "vocab_hash": vocab_hash,
        "category_order": CATEGORY_ORDER,
        "num_posts": str(num_posts),
        "num_tokens": str(num_tokens),
        "validation_share": repr(settings.validation_share),
        "test_share": repr(settings.test_share),
        "split_key": settings.split_key,
        **({} if implications_sha256 is None else {IMPLICATIONS_KEY: implications_sha256}),
    }


def write_packed_file(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Writes `arrays`, one for each of `TENSOR_TYPES`, as a safetensors file."""
    header = _header({name: (array.dtype, array.shape) for name, array in arrays.items()}, metadata)
    with path.open("w+b") as out:
        out.write(_header_bytes(header))
        for name in _names(header):
            out.write(_little_endian(arrays[name]))
        _write_header(out, header)


class PackedWriter:
    """Writes a packed file batch by batch: a context manager, and the file is whole once it is left without an error.

    The first tensors of the file grow side by side at their places. Those behind the tokens, whose number is known only
    at the end, are gathered in `scratch`: at most 11 bytes a post. Memory does not grow with the number of posts.

    Args:
        path: the file.
        scratch: a folder for temporary files.
        vocab_hash: hash of the vocabulary.
        num_posts: posts of all batches.
        num_tokens: the number of tokens to expect. The tokens move at the end if it has another number of digits.
        token_dtype: dtype of the tokens.
        settings: the settings of the splits, for the metadata.
        implications_sha256: of the implications whose effects the records lack, for the metadata.
    """

    def __init__(
        self,
        path: Path,
        scratch: Path,
        vocab_hash: str,
        num_posts: int,
        num_tokens: int,
        token_dtype: TokenDtype,
        settings: TokensSettings,
        implications_sha256: str | None = None,
    ) -> None:
        self.token_dtype = token_dtype
        self.num_tokens = 0
        self._path = path
        self._scratch = scratch
        self._of_file = (vocab_hash, num_posts, settings, implications_sha256)
        header = self._header(num_tokens)
        self._data_start = len(_header_bytes(header))
        self._starts = {name: int(header[name]["data_offsets"][0]) for name in _names(header)}
        self._written = dict.fromkeys(self._starts, 0)
        self._files: dict[str, IO[bytes]] = {}

    def _header(self, num_tokens: int) -> dict[str, Any]:
        vocab_hash, num_posts, settings, implications_sha256 = self._of_file
        layouts: dict[str, _Layout] = {
            "tokens": (np.dtype(self.token_dtype), (num_tokens,)),
            "offsets": (np.dtype(np.uint64), (num_posts + 1,)),
            "field_lengths": (np.dtype(np.uint16), (num_posts, NUM_CATEGORIES)),
            "post_id": (np.dtype(np.int64), (num_posts,)),
            "rating": (np.dtype(np.uint8), (num_posts,)),
            "score": (np.dtype(np.int32), (num_posts,)),
        }
        return _header(layouts, packed_metadata(vocab_hash, num_posts, num_tokens, settings, implications_sha256))

    def __enter__(self) -> Self:
        out = self._path.open("w+b")
        names = list(self._starts)
        for number, name in enumerate(names):
            is_behind = number > names.index("tokens")
            self._files[name] = (self._scratch / name).open("w+b") if is_behind else out
        self._write("offsets", np.zeros(1, np.uint64))
        return self

    def append(
        self,
        tokens: NDArray[Any],
        field_lengths: NDArray[np.uint16],
        post_id: NDArray[np.int64],
        rating: NDArray[np.uint8],
        score: NDArray[np.int32],
    ) -> None:
        """Appends a batch of records; their offsets follow from `field_lengths`."""
        offsets = self.num_tokens + np.cumsum(record_lengths(field_lengths), dtype=np.uint64)
        self.num_tokens += len(tokens)
        assert len(tokens) == 0 or offsets[-1] == self.num_tokens, "field_lengths do not add up to the tokens"
        assert tokens.dtype == self.token_dtype
        self._write("tokens", tokens)
        self._write("offsets", offsets)
        self._write("field_lengths", field_lengths)
        self._write("post_id", post_id)
        self._write("rating", rating)
        self._write("score", score)

    def _write(self, name: str, array: NDArray[Any]) -> None:
        file, written = self._files[name], self._written[name]
        file.seek(written + (self._data_start + self._starts[name] if file is self._files["tokens"] else 0))
        file.write(_little_endian(array))
        self._written[name] = written + array.nbytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish(self._files["tokens"])
        finally:
            for file in self._files.values():
                file.close()

    def _finish(self, out: IO[bytes]) -> None:
        header = self._header(self.num_tokens)
        assert all(self._written[name] == np.ptp(header[name]["data_offsets"]) for name in self._written)
        start, end = self._data_start, self._data_start + header["tokens"]["data_offsets"][1]
        moved = len(_header_bytes(header)) - start
        if moved:
            _move(out, start, end, moved)
        out.seek(end + moved)
        for name in _names(header):
            if self._files[name] is not out:
                self._files[name].seek(0)
                shutil.copyfileobj(self._files[name], out, _MOVE_BYTES)
        out.truncate()
        _write_header(out, header)


def _header(layouts: Mapping[str, _Layout], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The header of tensors of these layouts, in the file's order, with zeros for the hash of the data."""
    # The widest dtype first, so that every tensor is aligned.
    names = sorted(layouts, key=lambda name: (-layouts[name][0].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        dtype, shape = layouts[name]
        start, end = end, end + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {
            "dtype": _TYPE_NAMES[dtype.newbyteorder("<")],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    header["__metadata__"]["data_sha256"] = "0" * hashlib.sha256().digest_size * 2
    return header


def _names(header: Mapping[str, Any]) -> list[str]:
    """The names of the tensors, in the file's order."""
    return [name for name in header if name != "__metadata__"]


def _header_bytes(header: Mapping[str, Any]) -> bytes:
    """The start of a safetensors file: the header's length, then the header with its own hash."""
    metadata = {**header["__metadata__"], "header_sha256": header_sha256(header)}
    text = json.dumps({**header, "__metadata__": metadata}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_header(out: IO[bytes], header: dict[str, Any]) -> None:
    """Hashes the data of `out` as it lies in the file, and writes `header` with the hash before it."""
    out.seek(len(_header_bytes(header)))
    header["__metadata__"]["data_sha256"] = hashlib.file_digest(out, "sha256").hexdigest()  # type: ignore[arg-type]
    out.seek(0)
    out.write(_header_bytes(header))


def _little_endian(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data


def _move(file: IO[bytes], start: int, end: int, by: int) -> None:
    """Moves the bytes from `start` to `end` by `by` bytes, from that end on which they do not overwrite themselves."""
    starts = range(start, end, _MOVE_BYTES)
    for first in reversed(starts) if by > 0 else starts:
        file.seek(first)
        chunk = file.read(min(_MOVE_BYTES, end - first))
        file.seek(first + by)
        file.write(chunk)
