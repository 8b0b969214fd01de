"""Encodes posts into the packed file.

Posts hold dictionary codes, so a tag is looked up once per row group. Its uses become local ids by one take, and the
local ids of a post's five fields are joined as if they were texts: Arrow copies each field as a whole.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.disk_space import check_room, packed_bytes
from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.checksums import verify_checksums
from booru_embed_core.posts.parquet_parts import count_posts, read_groups
from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.schema import CATEGORIES, MAX_U16_TAGS, NUM_CATEGORIES, RATINGS, Category
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import PACKED_FILE, record_lengths
from booru_embed_core.tokens.packed_writer import PackedWriter, TokenDtype
from booru_embed_core.tokens.restored import reduce_sets, write_absent

MAX_FIELD_TAGS: Final = np.iinfo(np.uint16).max
_LOOKED_UP_TOGETHER: Final = 4
"""Row groups; each look-up hashes the whole vocabulary. A row group takes 25 MB of memory."""
_POSTS_AT_A_TIME: Final = 1 << 14
"""Their tokens stay in the processor's cache from one step to the next."""
_NO_SEPARATOR: Final = pa.scalar(b"", pa.large_binary())
_LocalIds: TypeAlias = NDArray[np.uint16] | NDArray[np.uint32]
_Texts: TypeAlias = pa.LargeBinaryArray
"""Tokens of each post of a batch, as bytes."""


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
    num_implied: int = 0
    """Kept uses that are not in the file, since another tag of the post implies them."""

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

    Tags outside `vocab` are counted and dropped, or replaced by one unknown token if the category has one. With
    ``drop_implied``, tags that another one of the post implies are left out, and ``absent.npy`` is written, with which
    ``restored.py`` gives them back. Memory does not grow with the number of posts: tensors go to the file at once, or
    through files in `temp_dir`.

    Raises:
        ChecksumError: the posts were changed after they were written.
        DiskError: the disk of `out_dir` has no room for the packed file.
        ValueError: a post has more than 65,535 tags of one category.
    """
    verify_checksums(posts_dir, "posts")
    token_dtype = np.uint16 if max(vocab.sizes.values()) <= MAX_U16_TAGS else np.uint32
    fields = [_Field(category, vocab, token_dtype) for category in CATEGORIES]
    num_empty = 0
    dropping = _Dropping(vocab) if settings.drop_implied else None
    num_posts, num_expected = count_posts(posts_dir), int(vocab.counts.sum())
    check_room(out_dir, packed_bytes(num_posts), "packed_tokens")
    file = out_dir / PACKED_FILE
    of_implications = vocab.implications.sha256 if dropping else None
    with (
        scratch_folder(temp_dir) as scratch,
        PackedWriter(
            file, scratch, vocab.hash, num_posts, num_expected, token_dtype, settings, of_implications
        ) as writer,
    ):
        groups = read_groups(posts_dir)
        while batches := list(itertools.islice(groups, _LOOKED_UP_TOGETHER)):
            num_empty += _encode_groups(batches, fields, writer, dropping)
            batches.clear()  # else they would stay in memory beside the next ones
    if dropping:
        dropping.write_absent(out_dir)
    return EncodeReport(
        num_posts=num_posts,
        num_tokens=writer.num_tokens,
        num_posts_without_tags=num_empty,
        kept_uses={field.category: field.num_kept for field in fields},
        dropped_uses={field.category: field.num_dropped for field in fields},
        unknown_uses={field.category: field.num_unknown for field in fields},
        file_bytes=file.stat().st_size,
        num_implied=dropping.num_implied if dropping else 0,
    )


class _Field:
    """Encodes one category's field and counts uses."""

    def __init__(self, category: Category, vocab: Vocab, token_dtype: TokenDtype) -> None:
        self.category = category
        self.num_kept = 0
        self.num_dropped = 0
        self.num_unknown = 0
        self._unknown_id = vocab.unknown_local_id(category)
        # The unknown token is the category's last tag, and no post's tag has its spelling.
        self._tags = pa.array(vocab.tags_of(category)[: self._unknown_id], pa.string())
        self._dtype = token_dtype
        # 65,536 tags take every number of 16 bits.
        self._looked_up_dtype = token_dtype if len(self._tags) <= np.iinfo(token_dtype).max else np.uint32
        self._lost = np.iinfo(self._looked_up_dtype).max
        """Stands for a tag outside the vocabulary; no local id is as large."""

    def look_up(self, groups: Sequence[pa.RecordBatch]) -> list[_LocalIds]:
        """For each of `groups`, the local id of each tag of its dictionary; `_lost` for tags outside the vocabulary."""
        dictionaries = [TagLists.from_arrow(group.column(self.category)).tags for group in groups]
        found = pc.index_in(pa.concat_arrays(dictionaries), self._tags).fill_null(-1).to_numpy(zero_copy_only=False)
        found = found.astype(self._looked_up_dtype)  # -1 becomes the largest number
        return np.split(found, np.cumsum([len(tags) for tags in dictionaries[:-1]]))

    def encode(self, batch: pa.RecordBatch, local_id_of: _LocalIds) -> tuple[list[_Texts], NDArray[np.int64]]:
        """The tokens of each post of `batch` as one text, or two that follow each other, and their number `[posts]`.

        Tags outside the vocabulary are dropped, or replaced by one final unknown token.

        Args:
            batch: posts.
            local_id_of: what `look_up` found for the tags of its dictionary.
        """
        lists = TagLists.from_arrow(batch.column(self.category))
        local_ids = pa.array(local_id_of).take(pa.array(lists.codes, pa.int32())).to_numpy()
        ends = lists.offsets.astype(np.int64)
        is_lost = local_ids == self._lost
        lost = np.flatnonzero(is_lost)
        if len(lost):
            local_ids = local_ids[~is_lost]
            # Few uses are lost: finding them among the ends costs less than a running count of the known ones.
            ends -= np.searchsorted(lost, ends)
        self.num_kept += len(local_ids)
        texts, lengths = [_texts(local_ids.astype(self._dtype, copy=False), ends)], np.diff(ends)
        if self._unknown_id is None:
            self.num_dropped += len(lost)
            return texts, lengths
        self.num_unknown += len(lost)
        has_lost = lengths < np.diff(lists.offsets)
        unknown = np.full(int(has_lost.sum()), self._unknown_id, dtype=self._dtype)
        texts.append(_texts(unknown, np.concatenate([[0], np.cumsum(has_lost)])))
        return texts, lengths + has_lost


def _texts(tokens: NDArray[Any], ends: NDArray[np.int64]) -> _Texts:
    """The texts of which number i holds ``tokens[ends[i]:ends[i + 1]]``; a view."""
    buffers = [None, pa.py_buffer((ends * tokens.itemsize).data), pa.py_buffer(tokens.data)]
    texts = pa.Array.from_buffers(pa.large_binary(), len(ends) - 1, buffers)
    assert isinstance(texts, pa.LargeBinaryArray)
    return texts


class _Dropping:
    """Drops implied tags batch by batch, and remembers which of them posts do not have."""

    def __init__(self, vocab: Vocab) -> None:
        self.num_implied = 0
        self._implications = vocab.implications
        self._starts = vocab.category_offsets[:-1] - vocab.num_special
        self._num_posts = 0
        self._absent = [np.empty((0, 2), np.uint32)]

    def apply(self, tokens: NDArray[Any], field_lengths: NDArray[np.uint16]) -> tuple[NDArray[Any], NDArray[np.uint16]]:
        """`tokens` ``[T]`` and `field_lengths` ``[n, 5]`` of the next posts, without implied tags."""
        tags = np.repeat(np.tile(self._starts, len(field_lengths)), field_lengths.ravel()) + tokens
        reduced = reduce_sets(self._implications, tags, record_lengths(field_lengths).astype(np.int64))
        fields = np.repeat(np.arange(field_lengths.size), field_lengths.ravel())
        lengths = np.bincount(fields[reduced.keep], minlength=field_lengths.size).reshape(field_lengths.shape)
        self._absent.append(np.add(reduced.absent, (self._num_posts, 0)).astype(np.uint32))
        self._num_posts += len(field_lengths)
        self.num_implied += len(tokens) - int(reduced.keep.sum())
        return tokens[reduced.keep], lengths.astype(np.uint16)

    def write_absent(self, out_dir: Path) -> None:
        """Writes ``absent.npy``."""
        write_absent(np.concatenate(self._absent), out_dir)


def _encode_groups(
    groups: Sequence[pa.RecordBatch], fields: Sequence[_Field], writer: PackedWriter, dropping: _Dropping | None
) -> int:
    """Appends `groups` to `writer` and returns the number of their posts without a tag in the vocabulary."""
    local_ids = zip(*(field.look_up(groups) for field in fields), strict=True)
    return sum(
        _encode_batch(group.slice(start, _POSTS_AT_A_TIME), fields, of_fields, writer, dropping)
        for group, of_fields in zip(groups, local_ids, strict=True)
        for start in range(0, len(group), _POSTS_AT_A_TIME)
    )


def _encode_batch(
    batch: pa.RecordBatch,
    fields: Sequence[_Field],
    local_ids: Iterable[_LocalIds],
    writer: PackedWriter,
    dropping: _Dropping | None,
) -> int:
    """Appends `batch` to `writer` and returns the number of its posts without a tag in the vocabulary.

    `local_ids` are what each of `fields` has looked up for this batch.
    """
    texts: list[_Texts] = []
    lengths = np.empty((len(batch), NUM_CATEGORIES), dtype=np.int64)
    for category_id, (field, local_id_of) in enumerate(zip(fields, local_ids, strict=True)):
        of_field, lengths[:, category_id] = field.encode(batch, local_id_of)
        texts += of_field
    if lengths.max(initial=0) > MAX_FIELD_TAGS:
        post, longest = (int(index) for index in np.unravel_index(lengths.argmax(), lengths.shape))
        raise ValueError(
            f"post {batch.column('id')[post]}: {lengths.max()} tags in {CATEGORIES[longest]}, more than "
            f"{MAX_FIELD_TAGS}; remove the post from the export"
        )
    field_lengths = lengths.astype(np.uint16)
    per_post = record_lengths(field_lengths)
    joined: Any = pc.binary_join_element_wise(*texts, _NO_SEPARATOR)  # type: ignore[call-overload]  # lacks bytes
    _, _, content = joined.buffers()
    tokens = np.frombuffer(content or b"", writer.token_dtype, int(per_post.sum()))
    if dropping:
        tokens, field_lengths = dropping.apply(tokens, field_lengths)
    ratings = pc.index_in(batch.column("rating"), pa.array(RATINGS)).to_numpy(zero_copy_only=False)
    writer.append(
        tokens=tokens,
        field_lengths=field_lengths,
        post_id=batch.column("id").to_numpy(),
        rating=ratings.astype(np.uint8),
        score=batch.column("score").to_numpy(),
    )
    return int((per_post == 0).sum())
