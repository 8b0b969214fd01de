"""Hidden tags depend only on post, tag and seed; visible and hidden tags partition the caption."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.evaluation.tasks import HIDES, Hide, hold_out, sample_posts, split_halves
from booru_embed_core.tokens.cooccurrence import captions_from_packed
from booru_embed_core.tokens.packed_file import PackedFileError
from tests.core.evaluation.evaluation_helpers import CAPTIONS, NUM_TAGS, SEEDS, captions_of, post_ids_of, rows_of
from tests.core.in_memory_helpers import packed_of


@given(CAPTIONS, st.sampled_from(HIDES), SEEDS)
def test_visible_and_hidden_make_the_caption_and_share_nothing(rows: list[list[int]], hide: Hide, seed: int) -> None:
    held_out = hold_out(captions_of(rows), post_ids_of(rows), hide, seed)
    assert held_out.post_index.tolist() == [i for i, row in enumerate(rows) if len(set(row)) >= 2]
    assert held_out.num_posts == held_out.visible.shape[0] == held_out.hidden.shape[0]
    assert held_out.filtered is held_out.visible
    for index, visible, hidden in zip(
        held_out.post_index, rows_of(held_out.visible), rows_of(held_out.hidden), strict=True
    ):
        tags = set(rows[index])
        assert sorted(visible + hidden) == sorted(tags)
        assert visible == sorted(visible)
        assert len(hidden) == (1 if hide == "one" else len(tags) // 2)


@given(CAPTIONS, st.sampled_from(HIDES), SEEDS, st.randoms())
def test_neither_order_nor_selection_of_posts_matters(rows: list[list[int]], hide: Hide, seed: int, random) -> None:
    ids = post_ids_of(rows)
    alone = hold_out(captions_of(rows), ids, hide, seed)
    order = list(range(len(rows)))
    random.shuffle(order)
    order = order[: 1 + len(order) // 2]
    shuffled = hold_out(captions_of([rows[i] for i in order]), ids[order], hide, seed)
    hidden = dict(zip(ids[alone.post_index].tolist(), rows_of(alone.hidden), strict=True))
    for post_id, tags in zip(ids[order][shuffled.post_index].tolist(), rows_of(shuffled.hidden), strict=True):
        assert tags == hidden[post_id]


def test_a_vocabulary_that_grows_at_its_end_hides_the_same() -> None:
    rows = [[0, 3, 5, 8], [1, 2]]
    small, large = (hold_out(captions_of(rows, size), post_ids_of(rows), "half", 7) for size in (9, 30))
    assert rows_of(small.hidden) == rows_of(large.hidden)


def test_another_seed_hides_other_tags_of_the_same_posts() -> None:
    rows = [list(range(NUM_TAGS))] * 50
    first, second = (rows_of(hold_out(captions_of(rows), post_ids_of(rows), "one", seed).hidden) for seed in (7, 8))
    agreeing = sum(a == b for a, b in zip(first, second, strict=True))
    assert agreeing < 20  # 50 / 9 by chance


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_every_tag_is_hidden_equally_often(seed: int) -> None:
    rows = [[0, 2, 5, 8]] * 4000
    hidden = hold_out(captions_of(rows), np.arange(4000), "one", seed).hidden
    counts = np.bincount(hidden.indices, minlength=NUM_TAGS)
    assert counts[[1, 3, 4, 6, 7]].sum() == 0
    assert np.all(np.abs(counts[[0, 2, 5, 8]] - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75))


def test_the_one_hidden_tag_is_among_the_hidden_half() -> None:
    rows = [list(range(NUM_TAGS))] * 20
    one, half = (rows_of(hold_out(captions_of(rows), post_ids_of(rows), hide, 7).hidden) for hide in HIDES)
    assert all(set(a) < set(b) for a, b in zip(one, half, strict=True))


def test_split_halves_partition_a_post() -> None:
    rows = [[0, 1, 2, 3, 4], [5], [6, 7]]
    one, other = split_halves(captions_of(rows), post_ids_of(rows), seed=7)
    sides = list(zip(rows_of(one), rows_of(other), strict=True))
    assert [sorted(a + b) for a, b in sides] == [[0, 1, 2, 3, 4], [6, 7]]
    assert [(len(a), len(b)) for a, b in sides] == [(3, 2), (1, 1)]


def test_post_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="1 post ids for 2 captions"):
        hold_out(captions_of([[1, 2], [3, 4]]), np.array([5]), "one", 7)


def test_captions_of_tags_are_sorted_and_without_duplicates() -> None:
    captions = captions_of([[3, 1, 3], [], [0]], 5)
    assert rows_of(captions) == [[1, 3], [], [0]]
    assert (captions.dtype, captions.shape) == (np.float32, (3, 5))
    assert captions.data.tolist() == [1, 1, 1]


@given(CAPTIONS, st.data())
def test_captions_of_a_packed_file_are_those_of_its_posts(rows: list[list[int]], data: st.DataObject) -> None:
    unique = [sorted(set(row)) for row in rows]
    packed, vocab = packed_of(unique, NUM_TAGS)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    captions = captions_from_packed(packed, vocab, np.array(index, dtype=np.int64))
    assert rows_of(captions) == [unique[i] for i in index]
    assert captions.shape == (len(index), NUM_TAGS)


def test_captions_of_another_vocabulary_are_refused() -> None:
    packed, _ = packed_of([[0, 1]], NUM_TAGS)
    _, other = packed_of([[0, 1]], NUM_TAGS + 1)
    with pytest.raises(PackedFileError, match="was made with the vocab"):
        captions_from_packed(packed, other, np.array([0]))


def test_a_sample_of_posts_depends_on_their_ids_alone() -> None:
    ids = np.arange(1000, 1300)
    sample = ids[sample_posts(ids, 40, seed=7)]
    assert len(set(sample.tolist())) == 40
    backwards = ids[::-1]
    assert set(backwards[sample_posts(backwards, 40, seed=7)].tolist()) == set(sample.tolist())
    assert set(ids[sample_posts(ids, 40, seed=8)].tolist()) != set(sample.tolist())
    assert np.all(np.diff(sample_posts(ids, 40, seed=7)) > 0)
    assert sample_posts(ids, 300, seed=7).tolist() == list(range(300))


@given(CAPTIONS, st.sampled_from(HIDES), SEEDS)
def test_unknown_tokens_stay_visible_and_are_not_ranked(rows: list[list[int]], hide: Hide, seed: int) -> None:
    unknown = {3, 8}
    is_unknown = np.isin(np.arange(NUM_TAGS), list(unknown))
    held_out = hold_out(captions_of(rows), post_ids_of(rows), hide, seed, is_unknown)
    known = [set(row) - unknown for row in rows]
    assert held_out.post_index.tolist() == [i for i, tags in enumerate(known) if len(tags) >= 2]
    for index, visible, hidden, filtered in zip(
        held_out.post_index,
        rows_of(held_out.visible),
        rows_of(held_out.hidden),
        rows_of(held_out.filtered),
        strict=True,
    ):
        assert sorted(visible + hidden) == sorted(set(rows[index]))
        assert not unknown & set(hidden)
        assert len(hidden) == (1 if hide == "one" else len(known[index]) // 2)
        assert filtered == sorted(unknown | set(visible))
    assert set(held_out.filtered.data.tolist()) <= {1.0}
    without = hold_out(captions_of([sorted(tags) for tags in known]), post_ids_of(rows), hide, seed)
    assert rows_of(without.hidden) == rows_of(held_out.hidden)


def test_unknown_tokens_are_in_the_first_half() -> None:
    is_unknown = np.isin(np.arange(NUM_TAGS), [8])
    one, other = split_halves(captions_of([[0, 1, 8], [2, 8]]), np.array([1, 2]), 7, is_unknown)
    assert [len(row) for row in rows_of(one)] == [2]
    assert 8 in rows_of(one)[0]
    assert [len(row) for row in rows_of(other)] == [1]
