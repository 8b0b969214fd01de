"""Counts of tags against Python's Counter."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings

from booru_embed_core.posts.checksums import ChecksumError
from booru_embed_core.schema import CATEGORIES, Category, tag_column
from booru_embed_core.settings import DuckdbSettings
from booru_embed_core.tags.frequency import FREQUENCY_SCHEMA, count_tags, read_frequencies
from tests.core.export_helpers import ONE_THREAD, Walked, csv_bytes, hostile_rows, row, walk


def naive_counts(rows: list[dict[str, str]], category: Category) -> list[tuple[str, int]]:
    """Tag and number of posts, count descending, then bytes ascending."""
    counter = Counter[str]()
    for post in rows:
        counter.update(set(post[tag_column(category)].split(" ")) - {""})
    return sorted(counter.items(), key=lambda item: (-item[1], item[0].encode()))


def pairs(table: pa.Table) -> list[tuple[str, int]]:
    return list(zip(table["tag"].to_pylist(), table["count"].to_pylist(), strict=True))


def test_the_sample_is_counted_as_python_counts_it(sample: Walked, sample_rows: list[dict[str, str]]) -> None:
    for category, table in read_frequencies(sample.freq_dir).items():
        wanted = naive_counts(sample_rows, category)
        assert pairs(table) == wanted
        summary = sample.summaries[category]
        assert (summary.num_tags, summary.num_uses) == (len(wanted), sum(count for _, count in wanted))
    assert sample.summaries[Category.GENERAL].num_uses > 1_000_000


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=hostile_rows())
def test_hostile_tags_are_counted_by_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]
) -> None:
    assume(any(post[tag_column(category)] for post in rows for category in CATEGORIES))
    work = tmp_path_factory.mktemp("walk")
    (work / "export.csv").write_bytes(csv_bytes(rows))
    walked = walk(work / "export.csv", work)
    for category, table in read_frequencies(walked.freq_dir).items():
        assert pairs(table) == naive_counts(rows, category)


def test_a_tag_twice_in_a_post_counts_once_and_empty_ones_not(tmp_path: Path) -> None:
    (tmp_path / "export.csv").write_bytes(csv_bytes([row(1, " b a  b "), row(2, "b", artist="b"), row(3, "")]))
    tables = read_frequencies(walk(tmp_path / "export.csv", tmp_path).freq_dir)
    assert pairs(tables[Category.GENERAL]) == [("b", 2), ("a", 1)]
    assert pairs(tables[Category.ARTIST]) == [("b", 1)]
    assert tables[Category.META].num_rows == 0
    assert tables[Category.META].schema.equals(FREQUENCY_SCHEMA)


def test_cumulative_shares_rise_to_one(sample: Walked) -> None:
    for table in read_frequencies(sample.freq_dir).values():
        share, counts = table["cumulative_share"].to_numpy(), table["count"].to_numpy()
        np.testing.assert_allclose(np.diff(share, prepend=0), counts / max(counts.sum(), 1), atol=1e-12)
        assert not len(share) or share[-1] == 1


def test_two_threads_give_the_same_bytes(sample: Walked, tmp_path: Path) -> None:
    count_tags(sample.posts_dir, tmp_path, DuckdbSettings(threads=2))
    for category in CATEGORIES:
        name = f"{category.value}.parquet"
        assert (tmp_path / name).read_bytes() == (sample.freq_dir / name).read_bytes(), name


def test_posts_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ChecksumError, match=r"/manifest\.json: no such file; build the posts again"):
        count_tags(tmp_path, tmp_path, ONE_THREAD)
