"""Encodes posts into the packed file. Posts hold dictionary codes, so a tag is looked up once per row group."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.checksums import verify_checksums
from booru_embed_core.posts.parquet_parts import read_groups
from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.schema import CATEGORIES, MAX_U16_TAGS, NUM_CATEGORIES, RATINGS, Category
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import PACKED_FILE, packed_metadata, write_packed_file

MAX_FIELD_TAGS: Final = np.iinfo(np.uint16).max


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    """Content of the packed file. A use is a (post, tag) pair; a category has ``kept + dropped + unknown`` uses."""

    num_posts: int
    num_tokens: int
    num_posts_without_tags: int
    kept_uses: dict[Category, int]
    dropped_uses: dict[Category, int]
    """Uses of tags outside the vocabulary, in categories without an unknown token."""
    unknown_uses: dict[Category, int]
    """The same in categories with an unknown token, which replaces all such tags of a post once."""
    file_bytes: int

    @property
    def uses_by_category(self) -> list[dict[str, str | int]]:
        """One row per category: uses kept, dropped and replaced by an unknown token."""
        return [
            {
                "category": category.value,
                "kept": self.kept_uses[category],
                "dropped": self.dropped_uses[category],
                "unknown": self.unknown_uses[category],
            }
            for category in CATEGORIES
        ]

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"


def encode_posts(
    posts_dir: Path,
    vocab: Vocab,
    out_dir: Path,
    settings: TokensSettings,
    temp_dir: Path | None = None,
) -> EncodeReport:
    """Writes ``tokens.safetensors`` to `out_dir` and returns a report; posts and tags keep their order.

    Tags outside `vocab` are counted and dropped, or replaced by one unknown token if the category has one. Memory does
    not grow with the number of posts: tensors are gathered in files in `temp_dir`.

    Raises:
        ChecksumError: the posts were changed after they were written.
        ValueError: a post has more than 65,535 tags of one category.
    """
    verify_checksums(posts_dir, "posts")
    fields = [_Field(category, vocab) for category in CATEGORIES]
    token_dtype = np.uint16 if max(vocab.sizes.values()) <= MAX_U16_TAGS else np.uint32
    num_empty = 0
    with scratch_folder(temp_dir) as scratch:
        with _Tensors(scratch, token_dtype) as tensors:
            for batch in read_groups(posts_dir):
                num_empty += _encode_batch(batch, fields, tensors)
        arrays = tensors.arrays()
        num_posts, num_tokens = len(arrays["post_id"]), len(arrays["tokens"])
        file = out_dir / PACKED_FILE
        write_packed_file(file, arrays, packed_metadata(vocab.hash, num_posts, num_tokens, settings))
    return EncodeReport(
        num_posts=num_posts,
        num_tokens=num_tokens,
        num_posts_without_tags=num_empty,
        kept_uses={field.category: field.num_kept for field in fields},
        dropped_uses={field.category: field.num_dropped for field in fields},
        unknown_uses={field.category: field.num_unknown for field in fields},
        file_bytes=file.stat().st_size,
    )


@dataclass(frozen=True)
class _Encoded:
    """One field of each post of a batch: post i has ``local_ids[ends[i - 1]:ends[i]]``, in the field's order."""

    local_ids: NDArray[np.int32]
    ends: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.ends, prepend=0)


class _Field:
    """Encodes one category's field and counts uses."""

    def __init__(self, category: Category, vocab: Vocab) -> None:
        self.category = category
        self.num_kept = 0
        self.num_dropped = 0
        self.num_unknown = 0
        self._unknown_id = vocab.unknown_local_id(category)
        # The unknown token is the category's last tag, and no post's tag has its spelling.
        self._tags = pa.array(vocab.tags_of(category)[: self._unknown_id], pa.string())

    def encode(self, batch: pa.RecordBatch) -> _Encoded:
        """The tags of each post of `batch`; unknown ones are dropped, or replaced by one final unknown token."""
        lists = TagLists.from_arrow(batch.column(self.category))
        local_ids = pc.index_in(lists.tags, self._tags).fill_null(-1).to_numpy(zero_copy_only=False)[lists.codes]
        is_known = local_ids >= 0
        known_before = np.concatenate([[0], np.cumsum(is_known)])
        encoded = _Encoded(local_ids[is_known], known_before[lists.offsets[1:]])
        self.num_kept += len(encoded.local_ids)
        num_outside = len(local_ids) - len(encoded.local_ids)
        if self._unknown_id is None:
            self.num_dropped += num_outside
            return encoded
        self.num_unknown += num_outside
        return _append_where(encoded, np.diff(lists.offsets) > encoded.lengths, self._unknown_id)


def _append_where(fields: _Encoded, mask: NDArray[np.bool_], local_id: int) -> _Encoded:
    """`fields` with `local_id` appended where `mask`, bool `[posts]`, is true."""
    lengths = fields.lengths + mask
    ends = np.cumsum(lengths)
    local_ids = np.full(int(lengths.sum()), local_id, dtype=np.int32)
    is_old = np.ones(len(local_ids), dtype=np.bool_)
    is_old[ends[mask] - 1] = False
    local_ids[is_old] = fields.local_ids
    return _Encoded(local_ids, ends)


def _encode_batch(batch: pa.RecordBatch, fields: list[_Field], tensors: _Tensors) -> int:
    """Appends `batch` to `tensors` and returns the number of its posts without a tag in the vocabulary."""
    encoded = [field.encode(batch) for field in fields]
    lengths = np.stack([field.lengths for field in encoded], axis=1)
    if lengths.max(initial=0) > MAX_FIELD_TAGS:
        post, longest = (int(index) for index in np.unravel_index(lengths.argmax(), lengths.shape))
        raise ValueError(
            f"post {batch.column('id')[post]}: {lengths.max()} tags in {CATEGORIES[longest]}, more than "
            f"{MAX_FIELD_TAGS}; remove the post from the export"
        )
    # The start of each field of each post in the batch's tokens.
    starts = np.cumsum(lengths.ravel()).reshape(lengths.shape) - lengths
    tokens = np.empty(int(lengths.sum()), dtype=tensors.token_dtype)
    for category_id, field in enumerate(encoded):
        shift = starts[:, category_id] - (field.ends - field.lengths)
        tokens[np.repeat(shift, field.lengths) + np.arange(len(field.local_ids))] = field.local_ids
    per_post = lengths.sum(axis=1)
    ratings = pc.index_in(batch.column("rating"), pa.array(RATINGS)).to_numpy(zero_copy_only=False)
    tensors.append(
        tokens=tokens,
        field_lengths=lengths.astype(np.uint16),
        lengths=per_post.astype(np.uint64),
        post_id=batch.column("id").to_numpy(),
        rating=ratings.astype(np.uint8),
        score=batch.column("score").to_numpy(),
    )
    return int((per_post == 0).sum())


class _Tensors:
    """A context manager that appends tensors to files; `arrays` maps them afterwards."""

    def __init__(self, folder: Path, token_dtype: type[np.uint16] | type[np.uint32]) -> None:
        self.token_dtype = token_dtype
        self._types: Mapping[str, type[np.generic]] = {
            "tokens": token_dtype,
            "offsets": np.uint64,
            "field_lengths": np.uint16,
            "post_id": np.int64,
            "rating": np.uint8,
            "score": np.int32,
        }
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._end = np.uint64(0)

    def __enter__(self) -> Self:
        for name in self._types:
            self._files[name] = (self._folder / name).open("wb")
        self._files["offsets"].write(self._end.tobytes())
        return self

    def append(self, *, lengths: NDArray[np.uint64], **arrays: NDArray[Any]) -> None:
        """Appends a batch; the `lengths` of its records become offsets."""
        offsets = self._end + np.cumsum(lengths)
        self._end = offsets[-1] if len(offsets) else self._end
        for name, array in (arrays | {"offsets": offsets}).items():
            assert array.dtype == self._types[name], (name, array.dtype)
            self._files[name].write(np.ascontiguousarray(array).data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The tensors, mapped from their files."""
        arrays = {name: _mapped(self._folder / name, dtype) for name, dtype in self._types.items()}
        arrays["field_lengths"] = arrays["field_lengths"].reshape(-1, NUM_CATEGORIES)
        return arrays


def _mapped(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return cast("NDArray[Any]", np.memmap(path, dtype=dtype, mode="r"))
