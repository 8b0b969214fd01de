"""Captions in two splits, compared with Python sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.schema import SPLITS
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tokens import duplicates
from booru_embed_core.tokens.duplicates import caption_hashes, shared_captions
from tests.core.tokens.packed_helpers import RECORDS, packed_of


def caption(record: list[list[int]]) -> frozenset[tuple[int, int]]:
    return frozenset((category, tag) for category, field in enumerate(record) for tag in field)


def unique(record: list[list[int]]) -> list[list[int]]:
    """Posts, each with distinct tags."""
    return [list(dict.fromkeys(field)) for field in record]


@given(RECORDS, st.randoms())
def test_hashes_are_the_same_where_the_tags_are(fields: list[list[list[int]]], random) -> None:
    records = [unique(record) for record in fields]
    records += [[random.sample(field, len(field)) for field in record] for record in records]
    hashes = caption_hashes(packed_of(records)).tolist()
    for one, its_hash in zip(records, hashes, strict=True):
        for other, other_hash in zip(records, hashes, strict=True):
            assert (its_hash == other_hash) == (caption(one) == caption(other))


def test_the_same_local_id_of_another_category_is_another_tag() -> None:
    records: list[list[list[int]]] = [[[5] if place == category else [] for place in range(5)] for category in range(5)]
    assert len(set(caption_hashes(packed_of(records)).tolist())) == 5


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = packed_of([[[n, n + 1], [], [n % 3], [], []] for n in range(50)])
    whole, shared = caption_hashes(packed), shared_captions(packed)
    monkeypatch.setattr(duplicates, "_CHUNK_POSTS", 7)
    np.testing.assert_array_equal(caption_hashes(packed), whole)
    rows = np.array([49, 0, 7, 7, 30])
    np.testing.assert_array_equal(caption_hashes(packed, rows), whole[rows])
    assert len(caption_hashes(packed, rows[:0])) == 0
    assert shared_captions(packed).post_ids.tolist() == shared.post_ids.tolist()


@given(
    st.lists(st.lists(st.lists(st.integers(0, 2), max_size=2, unique=True), min_size=5, max_size=5), max_size=60),
    st.sampled_from([2, 1 << 24]),
)
def test_tags_of_all_categories_are_compared_however_small_the_table(
    records: list[list[list[int]]], table_size: int
) -> None:
    packed = replace(packed_of(records), split_settings=TokensSettings(validation_share=0.1, test_share=0.4))
    captions, splits = [caption(record) for record in records], [SPLITS[split] for split in packed.split_ids()]
    trained = {one for one, split in zip(captions, splits, strict=True) if split == "train"}
    wanted = [
        int(packed.post_id[place])
        for place, (one, split) in enumerate(zip(captions, splits, strict=True))
        if split == "test" and len(one) > 1 and one in trained
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_TABLE_SIZE", table_size)
        assert shared_captions(packed).post_ids.tolist() == wanted


@given(st.lists(st.lists(st.sampled_from(range(4)), max_size=3, unique=True), min_size=5, max_size=40))
def test_shared_captions_are_those_of_both_splits(tags: list[list[int]]) -> None:
    packed = replace(
        packed_of([[field, [], [], [], []] for field in tags]),
        split_settings=TokensSettings(validation_share=0.1, test_share=0.4),
    )
    splits = [SPLITS[split] for split in packed.split_ids()]
    trained = {frozenset(field) for field, split in zip(tags, splits, strict=True) if split == "train"}
    asked = [place for place, split in enumerate(splits) if split == "test" and len(tags[place]) > 1]
    wanted = [int(packed.post_id[place]) for place in asked if frozenset(tags[place]) in trained]
    found = shared_captions(packed)
    assert found.num_asked == len(asked)
    assert found.post_ids.tolist() == wanted
    assert found.share == (len(wanted) / len(asked) if asked else 0)
