"""How many posts have each tag: one Parquet table for each category. What tags imply is counted beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from booru_embed_core.posts.arrow import read_parquet, schema_of
from booru_embed_core.posts.checksums import verify_checksums, write_checksums
from booru_embed_core.posts.database import connect
from booru_embed_core.posts.parquet_parts import read_groups
from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.settings import DuckdbSettings
from booru_embed_core.tags.implied_tags import write_implied_tags

TALLY_SCHEMA: Final = schema_of({"tag": pa.string(), "count": pa.int64()})
_SUMS: Final = "select tag, sum(count)::bigint as count from tallies group by tag order by count desc, tag"
FREQUENCY_SCHEMA: Final = schema_of(
    {
        "tag": pa.string(),
        "count": pa.int64(),
        "cumulative_share": pa.float64(),
    }
)


@dataclass(frozen=True, kw_only=True)
class FrequencySummary:
    """Distinct tags and uses of one category; a post is one use of each of its tags."""

    num_tags: int
    num_uses: int


def count_tags(
    posts_dir: Path, out_dir: Path, duckdb_settings: DuckdbSettings, temp_dir: Path | None = None
) -> dict[Category, FrequencySummary]:
    """Counts the tags of `posts_dir` into ``<category>.parquet`` files in `out_dir`; the sizes of these tables.

    Columns: ``tag`` string, ``count`` int64 (posts with the tag), ``cumulative_share`` float64 (share of the category's
    uses of this tag and all before it). Order: count descending, then tag ascending by bytes. An empty category has an
    empty table. ``implications.parquet`` is that of `write_implied_tags`.

    Raises:
        ChecksumError: the posts differ from what was written.
    """
    verify_checksums(posts_dir, "posts")
    summaries, tables = {}, {}
    with connect(duckdb_settings, temp_dir) as connection:
        for category in CATEGORIES:
            tallies = pa.RecordBatchReader.from_batches(TALLY_SCHEMA, map(_tally, read_groups(posts_dir, [category])))
            connection.register("tallies", tallies)
            counted = connection.sql(_SUMS).to_arrow_table()
            cumulative = np.cumsum(counted.column("count").to_numpy())
            num_uses = int(cumulative[-1]) if len(cumulative) else 0
            share = pa.array(cumulative / max(num_uses, 1))
            table = pa.table([counted.column("tag"), counted.column("count"), share], schema=FREQUENCY_SCHEMA)
            pq.write_table(table, frequency_file(out_dir, category), compression="zstd")
            tables[category] = table
            summaries[category] = FrequencySummary(num_tags=len(table), num_uses=num_uses)
    write_implied_tags(posts_dir, tables, out_dir, temp_dir)
    write_checksums(out_dir)
    return summaries


def read_frequencies(freq_dir: Path) -> dict[Category, pa.Table]:
    """The tables that `count_tags` wrote, by category.

    Raises:
        ChecksumError: they differ from what was written.
    """
    verify_checksums(freq_dir, "tag_frequencies")
    return {category: read_parquet(frequency_file(freq_dir, category)) for category in CATEGORIES}


def frequency_file(freq_dir: Path, category: Category) -> Path:
    """The path of the table of `category` in `freq_dir`."""
    return freq_dir / f"{category.value}.parquet"


def _tally(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The uses of each tag in the only column of `batch`, counted by code, since DuckDB would hash every use."""
    lists = TagLists.from_arrow(batch.column(0))
    counts = np.bincount(lists.codes, minlength=len(lists.tags))
    used = counts > 0
    return pa.RecordBatch.from_arrays([lists.tags.filter(pa.array(used)), pa.array(counts[used])], schema=TALLY_SCHEMA)
