"""The ``posts`` table on disk: numbered Parquet parts, written and read in export order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.arrow import joined, schema_of
from booru_embed_core.posts.database import source_literal
from booru_embed_core.posts.interning import Interner
from booru_embed_core.posts.tag_lists import TAG_LIST, TagLists
from booru_embed_core.schema import CATEGORIES, TAG_COLUMNS, Category

_VALUES: Final = {"id": pa.int64(), "rating": pa.string(), "score": pa.int32()}
RECORD_SCHEMA: Final = schema_of({**_VALUES, **dict.fromkeys(TAG_COLUMNS, pa.string())})
"""Posts as in an export, with strings of tags."""
POSTS_SCHEMA: Final = schema_of({**_VALUES, **dict.fromkeys(CATEGORIES, TAG_LIST)})
"""Posts as in the parts: a list of tags for each category, in the export's order, each tag once."""
ROW_GROUP_POSTS: Final = 131_072
PART_POSTS: Final = 8 * ROW_GROUP_POSTS
_DICTIONARY_BYTES: Final = 64 << 20
"""More than the distinct tags of a row group take, so that Parquet never falls back to plain strings."""
_MAX_BATCHES: Final = 32
"""More batches of a row group than these are joined first: a step for each column of each would take longer."""
_CODED: Final = {category: f"{category}.list.element" for category in CATEGORIES}
"""Parquet's name of each category's tags."""


class PartsWriter:
    """Writes ``part-00000.parquet`` … with row groups of one size, whatever the batches' sizes; a context manager.

    Args:
        out_dir: the folder of the parts.
        schema: the columns of every batch, in order.
        prefix: replaces ``part`` in the files' names.
        group_rows: rows of a row group, a divisor of `PART_POSTS`; `ROW_GROUP_POSTS` by default.
    """

    options: ClassVar[Mapping[str, Any]] = {"compression": "zstd"}
    """Options of `pq.ParquetWriter`."""

    def __init__(self, out_dir: Path, schema: pa.Schema, prefix: str = "part", group_rows: int | None = None) -> None:
        self.paths: list[Path] = []
        self.num_rows = 0
        self._out_dir = out_dir
        self._schema = schema
        self._prefix = prefix
        self._group_rows = ROW_GROUP_POSTS if group_rows is None else group_rows
        self._writer: pq.ParquetWriter | None = None
        self._pending: deque[pa.RecordBatch] = deque()
        self._num_pending = 0
        self._num_in_part = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Appends the rows of `batch`, which has the columns of the schema in order."""
        self.num_rows += len(batch)
        # DuckDB declares the columns of its batches nullable; a table needs one schema for all batches.
        self._pending.append(pa.RecordBatch.from_arrays(batch.columns, schema=self._schema))
        self._num_pending += len(batch)
        while self._num_pending >= self._group_rows:
            self._write(self._group_rows)

    def _write(self, num_rows: int) -> None:
        """Writes the next `num_rows` rows as one group."""
        group = self._finished(self._next(num_rows))
        self._part(group.schema).write_batch(group, row_group_size=self._group_rows)
        self._num_in_part += num_rows

    def _next(self, num_rows: int) -> pa.Table:
        """The next `num_rows` rows, which leave the pending ones; they are copied only from many small batches."""
        self._num_pending -= num_rows
        batches = []
        while num_rows:
            batch = self._pending.popleft()
            if len(batch) > num_rows:
                self._pending.appendleft(batch.slice(num_rows))
            batches.append(batch.slice(0, num_rows))
            num_rows -= len(batches[-1])
        rows = pa.Table.from_batches(batches, self._schema)
        return rows if len(batches) <= _MAX_BATCHES else rows.combine_chunks()

    def _finished(self, rows: pa.Table) -> pa.RecordBatch:
        """The `rows` of a group in the form in which they are written."""
        return pa.RecordBatch.from_arrays([joined(column) for column in rows.columns], schema=self._schema)

    def _part(self, schema: pa.Schema) -> pq.ParquetWriter:
        if self._writer is None or self._num_in_part == PART_POSTS:
            self._close()
            self.paths.append(self._out_dir / f"{self._prefix}-{len(self.paths):05d}.parquet")
            self._writer = pq.ParquetWriter(self.paths[-1], schema, **self.options)
            self._num_in_part = 0
        return self._writer

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._num_pending:
                self._write(self._num_pending)
            if not self.paths:
                self._part(self._finished(self._next(0)).schema)
        self._close()


class PostsWriter(PartsWriter):
    """Writes posts, given as `RECORD_SCHEMA`, as `POSTS_SCHEMA`: tags as lists, old names replaced, repeats dropped."""

    options = MappingProxyType(
        {
            # Codes of general tags are nearly incompressible: a quarter more bytes take a fifth less to write and read.
            "compression": {
                **dict.fromkeys([*_VALUES, *_CODED.values()], "zstd"),
                _CODED[Category.GENERAL]: "none",
            },
            "store_schema": False,
            "write_batch_size": 16_384,
            "dictionary_pagesize_limit": _DICTIONARY_BYTES,
            # The minimum and maximum of all tags take longer to find than the tags to write.
            "write_statistics": list(_VALUES),
            # Ids ascend: their differences are small, and a dictionary would hold every one of them.
            "column_encoding": {"id": "DELTA_BINARY_PACKED"},
            "use_dictionary": ["rating", "score", *_CODED.values()],
        }
    )

    def __init__(self, out_dir: Path, aliases: Aliases) -> None:
        super().__init__(out_dir, RECORD_SCHEMA)
        self.num_aliases = 0
        """Uses of old names that were replaced; final once the context is left."""
        self.num_repeats = 0
        """Uses of a tag that an earlier use in the same field has; final once the context is left."""
        self.aliases = aliases
        self._interners = {category: Interner() for category in CATEGORIES}

    def _finished(self, rows: pa.Table) -> pa.RecordBatch:
        columns: dict[str, pa.Array[Any]] = {name: joined(rows.column(name)) for name in _VALUES}
        for category, name in zip(CATEGORIES, TAG_COLUMNS, strict=True):
            lists = TagLists.split(rows.column(name), self._interners[category])
            lists, num_aliases = self.aliases.apply(lists, category)
            lists, num_repeats = lists.without_repeats()
            self.num_aliases += num_aliases
            self.num_repeats += num_repeats
            columns[category] = lists.to_arrow()
        schema = schema_of({name: column.type for name, column in columns.items()})
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)


class SeenIds:
    """The post ids that were seen: sorted runs of doubling length, 8 bytes an id; ascending ids need no comparison."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def snapshot(self) -> SeenIds:
        """The ids that are seen so far; ids that are added later do not count."""
        copy = SeenIds()
        copy._runs = list(self._runs)
        return copy

    def holds(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `ids` (int64 `[n]`) are seen, bool `[n]`."""
        is_seen = np.zeros(len(ids), dtype=np.bool_)
        for run in self._runs:
            is_seen |= run[np.minimum(np.searchsorted(run, ids), len(run) - 1)] == ids
        return is_seen

    def add(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `ids` (int64 `[n]`) are seen for the first time, bool `[n]`; adds them all."""
        fresh = np.zeros(len(ids), dtype=np.bool_)
        unique, first = np.unique(ids, return_index=True)
        new = np.ones(len(unique), dtype=np.bool_)
        for run in self._runs:
            if len(unique) and unique[0] <= run[-1] and unique[-1] >= run[0]:
                index = np.minimum(np.searchsorted(run, unique), len(run) - 1)
                new &= run[index] != unique
        fresh[first[new]] = True
        if new.any():
            self._runs.append(unique[new])
            while len(self._runs) > 1 and len(self._runs[-2]) <= len(self._runs[-1]):
                last = self._runs.pop()
                self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
        return fresh


def part_files(posts_dir: Path) -> list[Path]:
    """The parts of `posts_dir` in order.

    Raises:
        FileNotFoundError: `posts_dir` has no part.
    """
    files = sorted(posts_dir.glob("part-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{posts_dir}: has no part-*.parquet; build the posts first")
    return files


def posts_relation(posts_dir: Path) -> str:
    """The SQL expression of the table of posts, in export order."""
    # A folder that is called `id=7` would become a column.
    return f"read_parquet([{', '.join(map(source_literal, part_files(posts_dir)))}], hive_partitioning = false)"


def count_posts(posts_dir: Path) -> int:
    """The number of posts, from the parts' footers."""
    return sum(int(pq.read_metadata(file).num_rows) for file in part_files(posts_dir))


def read_groups(posts_dir: Path, columns: Sequence[str] = POSTS_SCHEMA.names) -> Iterator[pa.RecordBatch]:
    """Batches of `columns` in export order, one for each row group, with tags as dictionary codes for `TagLists`.

    Raises:
        FileNotFoundError: `posts_dir` has no part.
    """
    coded = list(_CODED.values())
    # Parts are listed now and opened one by one: inside a generator, the error of a missing part would come late.
    return itertools.chain.from_iterable(_groups(file, list(columns), coded) for file in part_files(posts_dir))


def _groups(file: Path, columns: list[str], coded: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(file, read_dictionary=coded, pre_buffer=False) as parquet:
        for number in range(parquet.num_row_groups):
            yield from parquet.read_row_group(number, columns, use_threads=False).to_batches()
