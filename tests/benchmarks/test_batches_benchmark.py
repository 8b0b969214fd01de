"""The batches benchmark: every way draws each record once, from a valid packed file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks._packed import random_packed
from benchmarks._peers import Way, grouped, torch_lists
from benchmarks.batches import booru_embed_ways, floors, measure
from booru_embed_core.tokens.packed_file import PackedFile


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedFile:
    return random_packed(tmp_path_factory.mktemp("packed"), 1_500)


def ways(packed: PackedFile) -> list[Way]:
    return [*booru_embed_ways(packed), *floors(packed), torch_lists(packed, Path())]


def test_every_way_draws_every_record_and_token_once(packed: PackedFile) -> None:
    for way in ways(packed):
        for _ in range(2):
            records, tokens = np.array(list(way.start(100))).T
            assert (records.sum(), tokens.sum()) == (1_500, packed.num_tokens), way.name
            assert len(records) >= 15


def test_rates_are_of_records_and_of_tokens(packed: PackedFile) -> None:
    for way in ways(packed):
        records, tokens = measure(way, 100)
        assert 0 < records < tokens


def test_a_random_packed_file_has_full_fields_of_16_bit_ids(packed: PackedFile) -> None:
    assert packed.tokens.max() > 60_000
    assert (packed.field_lengths.max(0) > 0).all()
    assert packed.field_lengths[:, 0].min() >= 1


def test_the_last_group_may_be_shorter() -> None:
    assert list(grouped(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
