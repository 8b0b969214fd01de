"""Splits by a keyed hash."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.schema import SPLITS
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tokens import splits
from booru_embed_core.tokens.splits import keyed_hash, split_ids

IDS = np.arange(1, 200_001)
TRAIN, VALIDATION, TEST = range(len(SPLITS))


def reference_hash(value: int) -> int:
    """The splitmix64 finaliser in Python integers."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


@given(post_id=st.integers(-(2**63), 2**63 - 1))
def test_the_hash_is_splitmix64_of_id_and_key(post_id: int) -> None:
    (base,) = keyed_hash(np.array([post_id]), "key")
    # SHA-256 of "key" begins with these eight bytes, read as a little-endian number.
    seed = int.from_bytes(bytes.fromhex("2c70e12b7a0646f9"), "little")
    assert int(base) == reference_hash((post_id % 2**64) ^ seed)


def test_shares_are_those_of_the_settings_within_chance() -> None:
    splits = split_ids(IDS, TokensSettings(validation_share=0.05, test_share=0.10))
    shares = np.bincount(splits, minlength=3) / len(IDS)
    # Four standard deviations of a share of 0.1 in 200,000 posts are 0.0027.
    np.testing.assert_allclose(shares, [0.85, 0.05, 0.10], atol=0.0027)


def test_a_post_stays_where_it_is_when_the_export_grows_or_is_sorted_anew() -> None:
    settings = TokensSettings()
    few = split_ids(IDS[::-7], settings)
    assert np.array_equal(few, split_ids(IDS, settings)[::-7])


def test_one_share_moves_no_post_of_the_other() -> None:
    base = split_ids(IDS, TokensSettings(validation_share=0.05, test_share=0.10))
    more = split_ids(IDS, TokensSettings(validation_share=0.20, test_share=0.10))
    assert np.array_equal(base == TEST, more == TEST)
    assert set(base[(base != more)]) == {TRAIN}


def test_another_key_splits_anew() -> None:
    base = split_ids(IDS, TokensSettings(test_share=0.5, validation_share=0))
    other = split_ids(IDS, TokensSettings(test_share=0.5, validation_share=0, split_key="other"))
    assert abs((base == other).mean() - 0.5) < 0.005


@pytest.mark.parametrize(("share", "count"), [(0.0, 0)])
def test_a_share_of_nothing_holds_nothing(share: float, count: int) -> None:
    splits = split_ids(IDS, TokensSettings(validation_share=share, test_share=share))
    assert (splits != TRAIN).sum() == count
    assert splits.dtype == np.uint8


def test_chunks_change_no_split(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.arange(1_000) * 7
    settings = TokensSettings(validation_share=0.2, test_share=0.3)
    whole = split_ids(ids, settings)
    monkeypatch.setattr(splits, "_CHUNK_POSTS", 13)
    np.testing.assert_array_equal(split_ids(ids, settings), whole)
