"""Where a category is cut, what each percentile costs, and which cut fits 16-bit ids."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.posts.arrow import schema_of
from booru_embed_core.schema import MAX_U16_TAGS, Category
from booru_embed_core.settings import ModelSettings
from booru_embed_core.tags.frequency import read_frequencies

VOCAB_COST_FILE: Final = "vocab_cost.parquet"

COST_PERCENTILES: Final = (
    *(float(percent) for percent in range(50, 95)),
    *(percent / 2 for percent in range(190, 198)),
    *(percent / 10 for percent in range(990, 1000)),
    99.95,
    99.99,
    100.0,
)
"""From 50 to 100, denser where the curve bends."""

COST_SCHEMA: Final = schema_of(
    {
        "category": pa.string(),
        "percentile": pa.float64(),
        "min_count": pa.int64(),
        "vocab_size": pa.int64(),
        "coverage": pa.float64(),
        "embedding_bytes": pa.int64(),
    }
)
COST_EMBEDDING_BYTES: Final = 4 * ModelSettings().width
"""A tag's row in the embedding of a model of the default width, in float32."""


def cut_size(counts: NDArray[np.int64], keep_percentile: float, min_count: int) -> int:
    """The number of tags that are kept, of `counts` (int64 `[num_tags]`, descending) of one category.

    They are the shortest prefix whose uses reach `keep_percentile` of all uses, without tags of fewer than `min_count`
    uses. The percentile is exact: 99.9 means 999/1000, not the nearest float.
    """
    if len(counts) == 0:
        return 0
    by_count = int(np.searchsorted(-counts, -min_count, side="right"))
    return min(_by_percentile(np.cumsum(counts), keep_percentile), by_count)


def _by_percentile(cumulative: NDArray[np.int64], keep_percentile: float) -> int:
    share = Fraction(str(keep_percentile)) / 100
    # The smallest whole number of uses that is at least share * total.
    needed = -((-int(cumulative[-1]) * share.numerator) // share.denominator)
    return int(np.searchsorted(cumulative, needed)) + 1


def wide_category(
    category: Category, counts: NDArray[np.int64], size: int, num_extra: int, num_uses: int
) -> str | None:
    """A line on a category whose ids do not fit 16 bits, with settings that would; None where they fit.

    Args:
        category: the category.
        counts: uses of all its tags, int64 `[num_tags]`, descending.
        size: number of tags that are kept.
        num_extra: unknown tokens in addition to them.
        num_uses: uses in the packed file, of all categories.
    """
    limit = MAX_U16_TAGS - num_extra
    if size <= limit:
        return None
    cumulative = np.cumsum(counts)
    # Rounded down to two decimals, in whole numbers, so that it never keeps more than `limit`.
    percentile = int(cumulative[limit - 1]) * 10_000 // int(cumulative[-1]) / 100
    return (
        f"{category.value}: {size:,} tags, but 16 bits number only {limit:,}: `tokens` becomes u32, which costs 2 "
        f"bytes more for each of {num_uses:,} uses, {2 * num_uses / 1e6:,.1f} MB; [vocab.{category.value}] "
        f"keep_percentile = {percentile} or min_count = {int(counts[limit]) + 1} would fit"
    )


def cost_curve(freq_dir: Path) -> pa.Table:
    """The table of `curve_of` the frequencies in `freq_dir`."""
    return curve_of(read_frequencies(freq_dir))


def curve_of(frequencies: Mapping[Category, pa.Table]) -> pa.Table:
    """What each of `COST_PERCENTILES` would keep of each category, as `COST_SCHEMA`; no minimum count is applied.

    ``min_count`` is the count of the last kept tag (0 for an empty category), ``coverage`` the share of uses that is
    kept, ``embedding_bytes`` the size of the kept rows in a model of the default width, in float32.
    """
    rows = []
    for category, table in frequencies.items():
        counts = table.column("count").to_numpy()
        cumulative = np.cumsum(counts)  # once, since it is nearly all of the work with a million tags
        for percentile in COST_PERCENTILES:
            size = _by_percentile(cumulative, percentile) if len(counts) else 0
            rows.append(
                {
                    "category": category.value,
                    "percentile": percentile,
                    "min_count": int(counts[size - 1]) if size else 0,
                    "vocab_size": size,
                    "coverage": int(cumulative[size - 1]) / int(cumulative[-1]) if size else 1.0,
                    "embedding_bytes": size * COST_EMBEDDING_BYTES,
                }
            )
    return pa.Table.from_pylist(rows, schema=COST_SCHEMA)


def write_vocab_cost(freq_dir: Path, out_dir: Path) -> pa.Table:
    """The table of `cost_curve`, written to ``vocab_cost.parquet`` in `out_dir`."""
    table = cost_curve(freq_dir)
    pq.write_table(table, out_dir / VOCAB_COST_FILE, compression="zstd")
    return table
