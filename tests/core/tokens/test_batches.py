"""Batches: every record once per epoch, with any seed, starting from any batch."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.schema import NUM_CATEGORIES, SPLITS
from booru_embed_core.tokens.batches import (
    EpochBatches,
    ratings_of,
    read_batch,
    rows_of_split,
    shuffled,
)
from tests.core.model_helpers import corpus
from tests.core.tokens.packed_helpers import RECORDS, packed_of

ROWS = np.arange(100, 900, 3, dtype=np.int64)


EMPTY = packed_of([])


def epoch_rows(batches: EpochBatches, epoch: int) -> list[int]:
    return np.concatenate([batches.rows(epoch, index) for index in range(len(batches))]).tolist()


@given(num=st.integers(1, 60), batch_posts=st.integers(1, 70), seed=st.integers(0, 2**62), epoch=st.integers(0, 1000))
@settings(deadline=None)
def test_every_record_is_drawn_once_an_epoch(num: int, batch_posts: int, seed: int, epoch: int) -> None:
    rows = ROWS[:num]
    batches = EpochBatches(EMPTY, rows, batch_posts, seed)
    sizes = [len(batches.rows(epoch, index)) for index in range(len(batches))]
    assert sorted(epoch_rows(batches, epoch)) == rows.tolist()
    assert all(size == batch_posts for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_posts


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    batches, same, other = (EpochBatches(EMPTY, ROWS, 16, seed) for seed in (5, 5, 6))
    orders = [epoch_rows(batches, epoch) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    assert [epoch_rows(same, epoch) for epoch in range(4)] == orders
    assert epoch_rows(other, 0) != orders[0]
    assert ROWS.tolist() not in orders


@pytest.mark.parametrize("num", [0, 1, 1 << 18, (1 << 18) + 1, 300_000])
def test_shuffled_rows_are_the_same_rows_in_a_seeded_order(num: int) -> None:
    rows = np.arange(7, 7 + num, dtype=np.uint32)
    found = shuffled(rows.copy(), np.random.default_rng(1))
    assert np.array_equal(np.sort(found), rows)
    assert np.array_equal(found, shuffled(rows.copy(), np.random.default_rng(1)))
    if num > 1:
        assert not np.array_equal(found, shuffled(rows.copy(), np.random.default_rng(2)))


@pytest.mark.parametrize("num", [1 << 18, 300_000])
def test_a_row_may_end_anywhere(num: int) -> None:
    """Each tenth of the rows is spread evenly over all tenths of the order, and neighbours are separated."""
    order = shuffled(np.arange(num, dtype=np.uint32), np.random.default_rng(3))
    places = np.argsort(order)
    counts, _, _ = np.histogram2d(np.arange(num), places, bins=10)
    assert counts.ravel() == pytest.approx(np.full(100, num / 100), abs=5 * (num / 100) ** 0.5)
    apart = np.abs(np.diff(places))
    assert apart.mean() == pytest.approx(num / 3, rel=0.02)
    assert (np.diff(order.astype(np.int64)) > 0).mean() == pytest.approx(0.5, abs=0.01)


def test_a_seed_and_an_epoch_are_not_exchanged() -> None:
    assert epoch_rows(EpochBatches(EMPTY, ROWS, 16, 1), 2) != epoch_rows(EpochBatches(EMPTY, ROWS, 16, 2), 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), max_size=12))
@settings(deadline=None)
def test_a_batch_does_not_depend_on_what_was_read_before(visits: list[tuple[int, int]]) -> None:
    wanted = [[epoch_rows(EpochBatches(EMPTY, ROWS, 32, 9), epoch)] for epoch in range(4)]
    batches = EpochBatches(EMPTY, ROWS, 32, 9)
    for epoch, index in visits:
        assert batches.rows(epoch, index).tolist() == wanted[epoch][0][32 * index : 32 * (index + 1)]


def by_tokens(records: list[list[list[int]]], batch_tokens: int, batch_posts: int | None = None) -> EpochBatches:
    return EpochBatches(packed_of(records), np.arange(len(records)), batch_posts, 4, batch_tokens)


@given(records=RECORDS, batch_tokens=st.integers(1, 40), batch_posts=st.none() | st.integers(1, 4))
@settings(deadline=None)
def test_a_token_budget_is_kept_and_used(
    records: list[list[list[int]]], batch_tokens: int, batch_posts: int | None
) -> None:
    batches = by_tokens(records, batch_tokens, batch_posts)
    for epoch in range(3):
        read = [batches.read(epoch, index) for index in range(batches.num_batches(epoch))]
        assert sorted(row for batch in read for row in batch.post_index.tolist()) == list(range(len(records)))
        for batch, following in zip(read, [*read[1:], None], strict=True):
            num = len(batch.post_index)
            assert num == 1 or len(batch.tokens) <= batch_tokens
            assert 1 <= num <= (batch_posts or num)
            if following is not None and num != batch_posts:
                assert len(batch.tokens) + int(following.cu_seqlens[1]) > batch_tokens


def test_records_without_tags_fill_no_budget() -> None:
    empty: list[list[int]] = [[], [], [], [], []]
    batches = by_tokens([empty] * 7, 1)
    assert batches.num_batches(0) == 1
    assert len(batches.read(0, 0).post_index) == 7


def test_the_number_of_batches_by_tokens_is_asked_by_epoch() -> None:
    batches = by_tokens([[[1], [], [], [], []]] * 7, 2)
    assert batches.num_batches(0) == 4
    with pytest.raises(TypeError, match="number differs between epochs; call num_batches"):
        len(batches)


@pytest.mark.parametrize("bounds", [(None, None), (0, None), (None, 0), (-1, 5)])
def test_a_batch_needs_a_bound(bounds: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="give one of them, 1 or more"):
        EpochBatches(EMPTY, ROWS, bounds[0], 1, bounds[1])


@given(records=RECORDS, batch_tokens=st.none() | st.integers(1, 20), data=st.data())
@settings(deadline=None)
def test_an_epoch_resumed_at_any_batch_reads_the_rest(
    records: list[list[list[int]]], batch_tokens: int | None, data: st.DataObject
) -> None:
    packed, num_epochs = packed_of(records), 3

    def batches() -> EpochBatches:
        return EpochBatches(packed, np.arange(len(records)), 3, 11, batch_tokens)

    places = [(epoch, index) for epoch in range(num_epochs) for index in range(batches().num_batches(epoch))]
    start = data.draw(st.integers(0, len(places) - 1))
    found = [batch.post_index.tolist() for batch in batches().read_from(*places[start], num_epochs)]
    assert found == [batches().read(*place).post_index.tolist() for place in places[start:]]


def test_threads_share_batches_of_different_epochs() -> None:
    batches = EpochBatches(EMPTY, ROWS, 16, 1)
    wanted = [epoch_rows(batches, epoch) for epoch in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda epoch: epoch_rows(batches, epoch), [*range(4)] * 25)
    assert list(found) == wanted * 25


def test_nothing_to_draw_from_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="in-memory: no records to draw batches from; lower the validation and test"):
        EpochBatches(EMPTY, ROWS[:0], 16, 1)


@pytest.mark.parametrize(("epoch", "index"), [(0, 17), (0, -1), (-1, 0)])
def test_a_batch_that_there_is_not_is_an_error(epoch: int, index: int) -> None:
    batches = EpochBatches(EMPTY, ROWS, 16, 1)
    assert len(batches) == 17
    with pytest.raises(IndexError, match=f"batch {index} of epoch {epoch}: the epoch has 17 batches"):
        batches.rows(epoch, index)


@given(records=RECORDS, data=st.data())
@settings(deadline=None)
def test_read_batch_is_the_plain_loop(records: list[list[list[int]]], data: st.DataObject) -> None:
    num = len(records)
    ratings = data.draw(st.lists(st.integers(0, 3), min_size=num, max_size=num))
    scores = data.draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=num, max_size=num))
    rows = data.draw(st.lists(st.integers(0, num - 1), max_size=10))
    batch = read_batch(packed_of(records, ratings, scores), np.array(rows, np.int64))
    assert batch.tokens.tolist() == [i for row in rows for field in records[row] for i in field]
    assert batch.field_lengths.tolist() == [[len(field) for field in records[row]] for row in rows]
    assert batch.field_lengths.shape == (len(rows), NUM_CATEGORIES)
    assert batch.post_index.tolist() == rows
    assert batch.ratings.tolist() == [ratings[row] for row in rows]
    assert batch.scores.tolist() == [scores[row] for row in rows]
    assert batch.max_length == max((sum(map(len, records[row])) for row in rows), default=0)
    ends = np.cumsum([0, *(sum(map(len, records[row])) for row in rows)])
    assert batch.cu_seqlens.tolist() == ends.tolist()
    assert batch.tokens.dtype == batch.cu_seqlens.dtype == torch.int32
    assert {batch.field_lengths.dtype, batch.ratings.dtype, batch.scores.dtype} == {torch.int64}


def test_local_ids_beyond_16_bits_are_read() -> None:
    packed = packed_of([[[1], [], [2], [], []], [[], [3], [], [], []]])
    wide = dataclasses.replace(packed, tokens=packed.tokens.astype(np.uint32) + 70_000)
    assert read_batch(wide, np.array([1, 0])).tokens.tolist() == [70_003, 70_001, 70_002]


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_that_the_file_has_not_is_an_error(row: int) -> None:
    with pytest.raises(IndexError):
        read_batch(packed_of([[[1], [], [], [], []]] * 2), np.array([0, row]))


@given(records=RECORDS, sizes=st.lists(st.integers(0, 70_000), min_size=5, max_size=5))
@settings(deadline=None)
def test_tag_indices_tell_categories_apart(records: list[list[list[int]]], sizes: list[int]) -> None:
    batch = read_batch(packed_of(records), np.arange(len(records)))
    wanted = [sum(sizes[:c]) + i for record in records for c, field in enumerate(record) for i in field]
    found = batch.tag_indices(sizes)
    assert found.dtype == torch.int64
    assert found.tolist() == wanted


@given(records=RECORDS, sizes=st.lists(st.integers(0, 70_000), min_size=5, max_size=5))
@settings(deadline=None)
def test_tag_indices_by_torch_are_those_by_numpy(records: list[list[list[int]]], sizes: list[int]) -> None:
    """The GPU code path, run on the CPU."""
    batch = read_batch(packed_of(records), np.arange(len(records)))
    found = batch._tag_indices_by_torch(torch.from_numpy(np.cumsum([0, *sizes[:-1]])))
    assert found.dtype == torch.int64
    assert torch.equal(found, batch.tag_indices(sizes))


def test_tag_indices_are_those_of_the_vocab(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = corpus(tmp_path_factory.getbasetemp() / "tiny")
    packed, vocab = made.packed, made.vocab
    batch = EpochBatches(packed, np.arange(packed.num_posts), 64, 0).read(0, 2)
    found = (batch.tag_indices(tuple(vocab.sizes.values())) + vocab.num_special).tolist()
    wanted = [i for row in batch.post_index.tolist() for i in packed.record_token_ids(row, vocab).tolist()]
    assert found == wanted
    assert len(set(found)) == vocab.num_tags
    assert all(vocab.sizes.values())


def test_a_batch_is_written_to_without_harm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The batch's tensors are copies: the file is read-only, and torch would warn about that."""
    packed = corpus(tmp_path_factory.getbasetemp() / "tiny").packed
    before = packed.tokens[:50].copy()
    batch = read_batch(packed, np.arange(5))
    for tensor in (batch.tokens, batch.field_lengths, batch.ratings, batch.scores):
        tensor.zero_()
    assert np.array_equal(packed.tokens[:50], before)


def test_rows_of_splits_are_disjoint_and_complete(tmp_path_factory: pytest.TempPathFactory) -> None:
    packed = corpus(tmp_path_factory.getbasetemp() / "tiny").packed
    by_split = [rows_of_split(packed, split) for split in SPLITS]
    assert sorted(np.concatenate(by_split).tolist()) == list(range(packed.num_posts))
    assert all(len(rows) and rows.dtype == np.int64 for rows in by_split)
    assert all((packed.split_ids()[rows] == split_id).all() for split_id, rows in enumerate(by_split))


def test_ratings_are_those_of_the_given_rows() -> None:
    packed = packed_of([[[], [], [], [], []]] * 4, [3, 0, 0, 1])
    assert ratings_of(packed, np.array([0, 1, 2])) == ("g", "e")
    assert ratings_of(packed, np.array([3])) == ("s",)
