"""The posts beside their vectors: ids, ratings, scores and tags, and the posts of each tag; mmapped.

Two Arrow files: ``posts.arrow`` has one row per post, in the order of the packed file. ``tags.arrow`` has one row per
tag, in the order of the vocabulary, with the rows of the posts that have the tag.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.errors import shown
from booru_embed_core.schema import RATINGS

if TYPE_CHECKING:
    from scipy import sparse

POSTS_FILE: Final = "posts.arrow"
TAGS_FILE: Final = "tags.arrow"
_BLOCK_ROWS: Final = 65_536
_FREQUENT: Final = 8
"""A tag of more than one in so many posts is frequent."""
_NUM_KEPT: Final = 32
"""Frequent tags whose posts are kept as bits, at most 4 bytes a post; the corpus of 5.8 million posts has 28."""

_FIXED: Final = {"post_id": pa.int64(), "rating": pa.uint8(), "score": pa.int32()}
_POSTS: Final = [
    pa.schema({**_FIXED, "tags": pa.large_list(pa.field("item", tag))}) for tag in (pa.uint16(), pa.uint32())
]
_TAGS: Final = [pa.schema({"rows": pa.large_list(pa.field("item", pa.uint32()))})]


@dataclass(frozen=True)
class _Lists:
    """Concatenated lists of numbers: list i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class PostsTable:
    """The posts of an index; the arrays are views of the files.

    Attributes:
        post_id: int64 ``[N]``.
        rating: uint8 ``[N]`` indices into `RATINGS`.
        score: int32 ``[N]``.
        tags: the tag indices of each row, ascending.
        rows: the rows of each tag index, ascending.
    """

    post_id: NDArray[np.int64]
    rating: NDArray[np.uint8]
    score: NDArray[np.int32]
    tags: _Lists
    rows: _Lists

    @classmethod
    def open(cls, folder: Path, num_posts: int | None = None, *, is_verified: bool = True) -> Self:
        """The table in `folder`, mmapped.

        Args:
            folder: holds both files.
            num_posts: the rows that it must have; None takes any number.
            is_verified: whether checksums cover the files. Otherwise every number in them is checked.

        Raises:
            OSError: a file is missing.
            ValueError: a file is not an Arrow file (`pa.ArrowInvalid`), or not such a table.
        """
        posts, tags = (_mapped(folder / name) for name in (POSTS_FILE, TAGS_FILE))
        for name, table, schemas in ((POSTS_FILE, posts, _POSTS), (TAGS_FILE, tags, _TAGS)):
            if table.schema.remove_metadata() not in schemas or (len(table) and table.column(0).num_chunks != 1):
                raise ValueError(f"{name} has other columns: {shown(table.schema.to_string(), 200)}")
            if not is_verified:
                table.validate(full=True)
        if num_posts not in (None, len(posts)) or not len(posts) or not len(tags):
            raise ValueError(f"{POSTS_FILE} has {len(posts):,} posts instead of {num_posts}")
        columns = {name: posts[name].chunk(0).to_numpy() for name in ("post_id", "rating", "score")}
        opened = cls(**columns, tags=_lists(posts["tags"]), rows=_lists(tags["rows"]))
        if not is_verified:
            opened._check_numbers()
        return opened

    def _check_numbers(self) -> None:
        """Raises a ValueError for a number that stands for no rating, tag or post."""
        for what, numbers, end in (
            ("rating", self.rating, len(RATINGS)),
            ("tag", self.tags.values, len(self.rows)),
            ("row", self.rows.values, self.num_posts),
        ):
            if numbers.max(initial=0) >= end:
                raise ValueError(f"{what} {int(numbers.max())} is not below {end:,}")

    @property
    def num_posts(self) -> int:
        """Number of rows."""
        return len(self.post_id)

    def has(self, tag: int) -> NDArray[np.bool_]:
        """The rows with `tag`, bool ``[N]``, in an array that the caller may change."""
        if not self.is_frequent(tag):
            return self._marked(tag)
        return np.unpackbits(self._bits(tag), count=self.num_posts).view(np.bool_)

    def is_frequent(self, tag: int) -> bool:
        """Whether so many rows have `tag` that they are kept as bits: unpacking them takes .3 ms, marking them 13."""
        return len(self.rows[tag]) > self.num_posts // _FREQUENT

    @cached_property
    def _bits(self) -> Callable[[int], NDArray[np.uint8]]:
        return lru_cache(_NUM_KEPT)(lambda tag: np.packbits(self._marked(tag)))

    def _marked(self, tag: int) -> NDArray[np.bool_]:
        found = np.zeros(self.num_posts, np.uint8)
        np.add.at(found, self.rows[tag], np.uint8(1))  # two thirds of the time of setting them
        return found.view(np.bool_)


def write_posts_table(
    folder: Path,
    post_id: NDArray[np.int64],
    rating: NDArray[np.uint8],
    score: NDArray[np.int32],
    tags: Iterable[tuple[NDArray[np.integer], NDArray[np.integer]]],
    num_tags: int,
) -> None:
    """Writes both files into `folder`; memory has room for the tags of all posts once.

    Args:
        folder: an existing folder.
        post_id: ids ``[N]``.
        rating: indices ``[N]`` into `RATINGS`.
        score: scores ``[N]``.
        tags: of all posts, block after block: their tag indices, concatenated, and the number of each post.
        num_tags: size of the vocabulary.
    """
    dtype = np.uint16 if num_tags <= 1 << 16 else np.uint32
    counts, lengths = np.zeros(num_tags, np.int64), [np.zeros(1, np.int64)]
    with tempfile.TemporaryFile(dir=folder) as scratch:
        for of_block, num_of_each in tags:
            sorted_tags = _by_row(of_block, num_of_each, num_tags).indices
            counts += np.bincount(sorted_tags, minlength=num_tags)
            lengths.append(num_of_each.astype(np.int64))
            scratch.write(sorted_tags.astype(dtype).tobytes())
        offsets = np.cumsum(np.concatenate(lengths))
        scratch.flush()
        values = np.memmap(scratch, dtype, "r") if offsets[-1] else np.empty(0, dtype)
        columns = {"post_id": pa.array(post_id), "rating": pa.array(rating), "score": pa.array(score)}
        _write(folder / POSTS_FILE, columns | {"tags": _list_array(values, offsets)})
        del values, columns
        scratch.seek(0)
        rows = _rows_of_tags(scratch, dtype, offsets, counts)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    _write(folder / TAGS_FILE, {"rows": _list_array(rows, ends)})


def _rows_of_tags(
    stream: IO[bytes], dtype: type[np.unsignedinteger[Any]], offsets: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """The rows of each tag, ascending, tag after tag, uint32 ``[T]``.

    Args:
        stream: the tags of all posts.
        dtype: of a tag in `stream`.
        offsets: int64 ``[N + 1]``, where the tags of each post start.
        counts: int64 ``[num_tags]``, the number of rows of each tag.
    """
    rows = np.empty(int(offsets[-1]), np.uint32)
    free = np.cumsum(counts) - counts
    for start in range(0, len(offsets) - 1, _BLOCK_ROWS):
        ends = offsets[start : start + _BLOCK_ROWS + 1]
        content = stream.read(int(ends[-1] - ends[0]) * np.dtype(dtype).itemsize)
        by_tag = _by_row(np.frombuffer(content, dtype), np.diff(ends), len(counts)).tocsc()
        num_of_each = np.diff(by_tag.indptr)
        places = np.repeat(free - by_tag.indptr[:-1], num_of_each) + np.arange(by_tag.nnz)
        rows[places] = by_tag.indices + start
        free += num_of_each
    return rows


def _by_row(tags: NDArray[np.integer], lengths: NDArray[np.integer], num_tags: int) -> sparse.csr_matrix[np.int8]:
    """A matrix with a row per post and a column per tag, and sorted indices."""
    from scipy import sparse

    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    found = sparse.csr_matrix((np.ones(len(tags), np.int8), tags, offsets), shape=(len(lengths), num_tags))
    if not found.has_sorted_indices:
        found.sort_indices()
    return found


def _list_array(values: NDArray[Any], offsets: NDArray[np.integer]) -> pa.Array[Any]:
    ends: pa.Int64Array = pa.array(offsets.astype(np.int64))  # type: ignore[assignment]  # the stubs say bool
    return cast("pa.Array[Any]", pa.LargeListArray.from_arrays(ends, pa.array(values)))


def _write(file: Path, columns: dict[str, pa.Array[Any]]) -> None:
    table = pa.table(columns)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _mapped(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _lists(column: pa.ChunkedArray[Any]) -> _Lists:
    array = cast("pa.LargeListArray[Any]", column.chunk(0))
    return _Lists(array.values.to_numpy(), array.offsets.to_numpy())
