"""Which posts have which tags, beside the packed file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.search import posts_table
from booru_embed_core.search.posts_table import PostsTable, write_posts_table

NUM_TAGS = 9
RECORDS = st.lists(st.lists(st.integers(0, NUM_TAGS - 1), max_size=6, unique=True), min_size=1, max_size=20)


def blocks_of(records: list[list[int]], size: int = 3) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(records), size):
        block = records[start : start + size]
        yield np.array([tag for record in block for tag in record], np.int64), np.array([*map(len, block)])


def write(folder: Path, records: list[list[int]], num_tags: int = NUM_TAGS) -> PostsTable:
    num = len(records)
    write_posts_table(
        folder,
        np.arange(num, dtype=np.int64) * 7,
        (np.arange(num) % 4).astype(np.uint8),
        (np.arange(num) - 3).astype(np.int32),
        blocks_of(records),
        num_tags,
    )
    return PostsTable.open(folder)


@settings(max_examples=40, deadline=None)
@given(records=RECORDS)
def test_both_directions_are_what_the_records_say(
    tmp_path_factory: pytest.TempPathFactory, records: list[list[int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posts_table, "_BLOCK_ROWS", 4)
        table = write(tmp_path_factory.mktemp("table"), records)
    assert [table.tags[row].tolist() for row in range(table.num_posts)] == [sorted(record) for record in records]
    for tag in range(NUM_TAGS):
        assert table.rows[tag].tolist() == [row for row, record in enumerate(records) if tag in record]


def test_tags_beyond_16_bits_are_kept(tmp_path: Path) -> None:
    table = write(tmp_path, [[70_000, 3], [65_536]], 70_001)
    assert (table.tags[0].tolist(), table.tags[1].tolist()) == ([3, 70_000], [65_536])
    assert table.tags.values.dtype == np.uint32
    assert write(tmp_path, [[3]]).tags.values.dtype == np.uint16


def test_rows_with_a_tag_are_marked_also_where_they_are_kept_as_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posts_table, "_NUM_KEPT", 2)
    numbers = np.random.default_rng(0)
    table = write(tmp_path, [[tag for tag in range(NUM_TAGS) if numbers.random() < 1 / (1 + tag)] for _ in range(61)])
    assert [table.is_frequent(tag) for tag in (0, 1, 2)] == [True] * 3
    assert not table.is_frequent(NUM_TAGS - 1)
    for tag in (*range(NUM_TAGS), 0, 1, 2):
        marked = table.has(tag)
        assert np.flatnonzero(marked).tolist() == table.rows[tag].tolist()
        marked[:] = True  # the caller's own
        assert np.flatnonzero(table.has(tag)).tolist() == table.rows[tag].tolist()
