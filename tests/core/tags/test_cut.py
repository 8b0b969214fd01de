"""The cut, its cost curve, and the word on a category that is too large for 16 bits."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.schema import Category
from booru_embed_core.settings import CategoryCut, VocabSettings
from booru_embed_core.tags.build import WideVocabWarning, build_vocab
from booru_embed_core.tags.cut import COST_PERCENTILES, COST_SCHEMA, cost_curve, cut_size, write_vocab_cost
from booru_embed_core.tags.frequency import read_frequencies
from tests.core.export_helpers import Walked, write_frequencies


def naive_cut(counts: list[int], percentile: str, min_count: int) -> int:
    """Tags taken one by one until their uses reach the percentile, in whole fractions."""
    kept, uses = 0, 0
    while kept < len(counts) and Fraction(uses, sum(counts)) < Fraction(percentile) / 100:
        uses += counts[kept]
        kept += 1
    return sum(count >= min_count for count in counts[:kept])


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=30).map(lambda counts: sorted(counts, reverse=True)),
    percentile=st.decimals(min_value="0.01", max_value=100, places=2),
    min_count=st.integers(1, 20),
)
def test_the_cut_is_the_naive_one(counts: list[int], percentile: object, min_count: int) -> None:
    array = np.array(counts, dtype=np.int64)
    assert cut_size(array, float(str(percentile)), min_count) == naive_cut(counts, str(percentile), min_count)


@pytest.mark.parametrize("percentile", COST_PERCENTILES)
def test_a_prefix_that_makes_the_percentile_exactly_is_enough(percentile: float) -> None:
    """10,000 uses, the first tag having just the percentile of them: no float may ask for one more."""
    first = int(Fraction(str(percentile)) * 100)
    counts = np.array([first, *[1] * (10_000 - first)], dtype=np.int64)
    assert cut_size(counts, percentile, 1) == 1
    if first < 10_000:
        one_less = np.array([first - 1, *[1] * (10_001 - first)], dtype=np.int64)
        assert cut_size(one_less, percentile, 1) == 2


def test_the_cut_of_counts_beyond_float_precision_is_exact() -> None:
    counts = np.array([2**61, 2**61 - 1, 1], dtype=np.int64)
    assert cut_size(counts, 50, 1) == 1
    assert cut_size(counts - np.array([1, 0, 0]), 50, 1) == 2
    assert cut_size(counts, 100, 1) == 3


def test_an_empty_category_keeps_nothing() -> None:
    assert cut_size(np.empty(0, dtype=np.int64), 100, 1) == 0


def test_the_cost_curve_agrees_with_the_cuts(sample: Walked, tmp_path: Path) -> None:
    table = write_vocab_cost(sample.freq_dir, tmp_path)
    assert table.schema.equals(COST_SCHEMA)
    assert pq.read_table(tmp_path / "vocab_cost.parquet").equals(table)
    assert cost_curve(sample.freq_dir).equals(table)
    frequencies = read_frequencies(sample.freq_dir)
    for entry in table.to_pylist():
        category = Category(entry["category"])
        counts = frequencies[category]["count"].to_pylist()
        kept = counts[: entry["vocab_size"]]
        assert len(kept) == naive_cut(counts, str(entry["percentile"]), 1)
        assert entry["min_count"] == (kept[-1] if kept else 0)
        assert entry["coverage"] == (sum(kept) / sum(counts) if counts else 1)
        assert entry["coverage"] >= entry["percentile"] / 100
    assert {entry["percentile"] for entry in table.to_pylist()} >= {50.0, 90.0, 99.1, 99.9, 100.0}


def many_artists(num_tags: int) -> list[tuple[str, int]]:
    """Artists of 1,000, 10 and 2 uses, the last half of them of 2."""
    return [
        (f"artist_{index}", 1000 if index < 1000 else 10 if index < num_tags // 2 else 2) for index in range(num_tags)
    ]


@pytest.mark.parametrize(("unpopular", "limit"), [("drop", 65_536), ("unk", 65_535)])
def test_a_category_beyond_16_bits_is_named_with_the_cuts_that_fit(tmp_path: Path, unpopular: str, limit: int) -> None:
    counts = {Category.ARTIST: many_artists(100_000), Category.GENERAL: [("1girl", 1_000_000)]}
    write_frequencies(tmp_path, counts)
    settings = VocabSettings.model_validate({"keep_percentile": 100, "min_count": 1, "unpopular": unpopular})
    with pytest.warns(WideVocabWarning) as caught:
        build_vocab(tmp_path, settings)
    (line,) = [str(warning.message) for warning in caught]
    assert caught[0].filename == __file__, "the warning points at the caller"
    num_uses = sum(count for tags in counts.values() for _, count in tags)
    assert line.startswith(
        f"artist: 100,000 tags, but 16 bits number only {limit:,}: `tokens` becomes u32, which costs 2 bytes more for "
        f"each of {num_uses:,} uses, {2 * num_uses / 1e6:,.1f} MB; "
    )
    found = re.search(r"\[vocab\.artist\] keep_percentile = ([\d.]+) or min_count = (\d+) would fit$", line)
    assert found
    array = np.array([count for _, count in counts[Category.ARTIST]])
    assert limit - 80 < cut_size(array, float(found[1]), 1) <= limit  # 0.01% of the uses are 159, 80 tags of 2
    assert cut_size(array, 100, int(found[2])) <= limit < cut_size(array, 100, int(found[2]) - 1)
    for own in ({"keep_percentile": float(found[1])}, {"min_count": int(found[2])}):
        lines: list[str] = []
        fitting = build_vocab(tmp_path, settings.model_copy(update={"artist": CategoryCut(**own)}), lines.append)
        assert lines == []
        assert fitting.sizes[Category.ARTIST] <= 65_536


@pytest.mark.parametrize("unpopular", ["drop", "unk"])
def test_a_category_that_just_fits_is_not_warned_of(tmp_path: Path, unpopular: str) -> None:
    num_tags = 65_536 - (unpopular == "unk")
    settings = VocabSettings.model_validate({"keep_percentile": 100, "min_count": 1, "unpopular": unpopular})
    lines: list[str] = []
    for more in (0, 1):
        write_frequencies(tmp_path, {Category.ARTIST: many_artists(num_tags + more)})
        vocab = build_vocab(tmp_path, settings, lines.append)
        assert vocab.sizes[Category.ARTIST] == 65_536 + more
        assert len(lines) == more
