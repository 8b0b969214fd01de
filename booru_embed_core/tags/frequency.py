"""How many posts have each tag: one Parquet table a category."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from booru_embed_core.posts.arrow import schema_of
from booru_embed_core.posts.database import connect
from booru_embed_core.posts.parts import posts_relation
from booru_embed_core.schema import CATEGORIES, TAG_COLUMNS, TAG_SEPARATOR, Category
from booru_embed_core.settings import DuckdbSettings

FREQUENCY_SCHEMA: Final = schema_of(
    {
        "tag": pa.string(),
        "count": pa.int64(),
        "cumulative_share": pa.float64(),
    }
)


@dataclass(frozen=True, kw_only=True)
class FrequencySummary:
    """One category: distinct tags, and uses (a post counts once for each of its tags)."""

    num_tags: int
    num_uses: int


def count_tags(
    posts_dir: Path, out_dir: Path, duckdb_settings: DuckdbSettings, temp_dir: Path | None = None
) -> dict[Category, FrequencySummary]:
    """Sizes of the tables written to `out_dir`, one ``<category>.parquet`` each, empty ones included.

    Columns: ``tag`` string, ``count`` int64 (posts that have the tag; twice in one post counts once),
    ``cumulative_share`` float64 (of the category's uses, this tag and all before it). Order: count descending,
    then tag ascending by bytes.
    """
    with connect(duckdb_settings, temp_dir) as connection:
        counted = connection.sql(_query(posts_relation(posts_dir))).to_arrow_table()
    summaries = {}
    categories = counted.column("category").to_numpy()
    for category_id, category in enumerate(CATEGORIES):
        start, end = np.searchsorted(categories, [category_id, category_id + 1])
        table = counted.slice(int(start), int(end - start))
        cumulative = np.cumsum(table.column("count").to_numpy())
        num_uses = int(cumulative[-1]) if len(cumulative) else 0
        table = pa.table(
            [table.column("tag"), table.column("count"), pa.array(cumulative / max(num_uses, 1))],
            schema=FREQUENCY_SCHEMA,
        )
        pq.write_table(table.combine_chunks(), frequency_file(out_dir, category), compression="zstd")
        summaries[category] = FrequencySummary(num_tags=len(table), num_uses=num_uses)
    return summaries


def read_frequencies(freq_dir: Path) -> dict[Category, pa.Table]:
    """The tables that `count_tags` wrote, by category."""
    return {category: pq.read_table(frequency_file(freq_dir, category)) for category in CATEGORIES}


def frequency_file(freq_dir: Path, category: Category) -> Path:
    """Where the table of `category` lies in `freq_dir`."""
    return freq_dir / f"{category.value}.parquet"


def _query(posts: str) -> str:
    """One pass over the posts. Only U+0020 separates tags: other white space occurs inside them."""
    fields = ", ".join(f"list_distinct(string_split({name}, '{TAG_SEPARATOR}'))" for name in TAG_COLUMNS)
    numbers = ", ".join(f"{number}::utinyint" for number in range(len(TAG_COLUMNS)))
    return f"""
        with fields as (select unnest([{numbers}]) as category, unnest([{fields}]) as tags from {posts}),
        uses as (select category, unnest(tags) as tag from fields)
        select category, tag, count(*) as count from uses where tag <> '' group by all
        order by category, count desc, tag
    """  # noqa: S608
