"""The ``posts`` table on disk: numbered Parquet parts, written and read in export order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.posts.arrow import schema_of
from booru_embed_core.posts.database import connect, quoted
from booru_embed_core.schema import POST_COLUMNS, TAG_COLUMNS
from booru_embed_core.settings import DuckdbSettings

POSTS_SCHEMA: Final = schema_of(
    {
        "id": pa.int64(),
        "rating": pa.string(),
        "score": pa.int32(),
        **dict.fromkeys(TAG_COLUMNS, pa.string()),
    }
)
ROW_GROUP_POSTS: Final = 131_072
PART_POSTS: Final = 8 * ROW_GROUP_POSTS
BATCH_POSTS: Final = 65_536
"""Posts that the stages below hold in memory at a time."""


class PartsWriter:
    """Writes ``part-00000.parquet`` … with row groups of one size, however the batches came; a context manager.

    `schema` is that of every batch, column for column; `prefix` stands in the place of ``part``; `group_rows`, by
    default `ROW_GROUP_POSTS`, divides `PART_POSTS`.
    """

    def __init__(
        self, out_dir: Path, schema: pa.Schema = POSTS_SCHEMA, prefix: str = "part", group_rows: int | None = None
    ) -> None:
        self.paths: list[Path] = []
        self.num_rows = 0
        self._out_dir = out_dir
        self._schema = schema
        self._prefix = prefix
        self._group_rows = ROW_GROUP_POSTS if group_rows is None else group_rows
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.RecordBatch] = []
        self._num_pending = 0
        self._num_in_part = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Appends the rows of `batch`, which has the columns of the schema in its order."""
        self.num_rows += len(batch)
        # Batches from DuckDB say that their columns may hold nulls; a table wants one schema for all.
        self._pending.append(pa.RecordBatch.from_arrays(batch.columns, schema=self._schema))
        self._num_pending += len(batch)
        if self._num_pending >= self._group_rows:
            self._write(last=False)

    def _write(self, *, last: bool) -> None:
        table = pa.Table.from_batches(self._pending).combine_chunks()
        start = 0
        while len(table) - start >= self._group_rows or (last and start < len(table)):
            group = table.slice(start, self._group_rows)
            self._part().write_table(group, row_group_size=self._group_rows)
            self._num_in_part += len(group)
            start += len(group)
        self._pending = table.slice(start).to_batches()
        self._num_pending = len(table) - start

    def _part(self) -> pq.ParquetWriter:
        if self._writer is None or self._num_in_part == PART_POSTS:
            self._close()
            self.paths.append(self._out_dir / f"{self._prefix}-{len(self.paths):05d}.parquet")
            self._writer = pq.ParquetWriter(self.paths[-1], self._schema, compression="zstd")
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
            if self._pending:
                self._write(last=True)
            if not self.paths:
                self._part()
        self._close()


class SeenIds:
    """Which post ids were seen: sorted runs of doubling length, 8 bytes an id, nothing compared while ids ascend."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def add(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `ids` (int64 `[n]`) are seen for the first time, as bool `[n]`; all are known from now on."""
        fresh = np.zeros(len(ids), dtype=np.bool_)
        unique, first = np.unique(ids, return_index=True)
        new = np.ones(len(unique), dtype=np.bool_)
        for run in self._runs:
            if len(unique) and unique[0] <= run[-1] and unique[-1] >= run[0]:
                place = np.minimum(np.searchsorted(run, unique), len(run) - 1)
                new &= run[place] != unique
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
        FileNotFoundError: there is none.
    """
    files = sorted(posts_dir.glob("part-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{posts_dir}: no part-*.parquet here; build the posts first")
    return files


def posts_relation(posts_dir: Path) -> str:
    """An SQL table function that gives the posts in export order."""
    return f"read_parquet([{', '.join(quoted(str(file)) for file in part_files(posts_dir))}])"


def count_posts(posts_dir: Path) -> int:
    """The number of posts, from the parts' footers."""
    return sum(int(pq.read_metadata(file).num_rows) for file in part_files(posts_dir))


def open_posts(
    posts_dir: Path,
    duckdb_settings: DuckdbSettings,
    columns: tuple[str, ...] = POST_COLUMNS,
    temp_dir: Path | None = None,
) -> Iterator[pa.RecordBatch]:
    """Batches of `columns` in export order, of at most `BATCH_POSTS` posts."""
    query = f"select {', '.join(columns)} from {posts_relation(posts_dir)}"  # noqa: S608
    with connect(duckdb_settings, temp_dir) as connection:
        yield from connection.sql(query).to_arrow_reader(BATCH_POSTS)
