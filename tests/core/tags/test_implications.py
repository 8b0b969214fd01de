"""The closure of implications, and sets of tags without those that others imply, against the obvious loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.tags import implications as implications_module
from booru_embed_core.tags.implications import Implications

NUM_TAGS = 7
TAGS = st.integers(0, NUM_TAGS - 1)
PAIRS = st.lists(st.tuples(TAGS, TAGS), max_size=12)
SETS = st.lists(st.lists(TAGS, unique=True), max_size=6)


def of(pairs: list[tuple[int, int]], num_tags: int = NUM_TAGS) -> Implications:
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Implications.of_pairs(both[:, 0], both[:, 1], num_tags)


def reached(pairs: list[tuple[int, int]], tag: int) -> set[int]:
    found: set[int] = set()
    waiting = [tag]
    while waiting:
        here = waiting.pop()
        fresh = {b for a, b in pairs if a == here} - found
        found |= fresh
        waiting += fresh
    return found - {tag}


@given(PAIRS)
def test_chains_are_followed_to_their_end(pairs: list[tuple[int, int]]) -> None:
    implications = of(pairs)
    for tag in range(NUM_TAGS):
        assert implications.effects(tag).tolist() == sorted(reached(pairs, tag))
    assert implications.num_pairs == sum(len(reached(pairs, tag)) for tag in range(NUM_TAGS))
    assert of([(a, b) for a, b in implications.pairs.tolist()]).pairs.tolist() == implications.pairs.tolist()


@given(PAIRS, st.lists(TAGS, unique=True))
def test_what_is_left_out_of_a_set_follows_from_the_rest(pairs: list[tuple[int, int]], tags: list[int]) -> None:
    implications, given_tags = of(pairs), np.array(tags, dtype=np.int64)
    effects = {b for a in tags for b in reached(pairs, a)}
    assert implications.implied_by(given_tags).tolist() == sorted(effects)
    kept = implications.reduced(given_tags).tolist()
    assert implications.restored(np.array(kept, dtype=np.int64)).tolist() == sorted({*tags, *effects})
    assert kept == [tag for tag in tags if tag in kept]
    for tag in kept:  # none of them follows from another
        assert not {other for other in kept if tag in reached(pairs, other)}
    assert implications.reduced(implications.restored(given_tags)).tolist() == sorted(
        implications.reduced(np.array(sorted({*tags, *effects}), dtype=np.int64)).tolist()
    )


@given(PAIRS, SETS, st.integers(1, 3))
def test_many_sets_are_reduced_as_one_by_one(pairs: list[tuple[int, int]], sets: list[list[int]], rows: int) -> None:
    implications = of(pairs)
    flat = np.array([tag for one in sets for tag in one], dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(implications_module, "_MARKED_BYTES", rows * NUM_TAGS)
        keep = implications.is_kept(flat, np.array([len(one) for one in sets], dtype=np.int64))
    assert flat[keep].tolist() == [tag for one in sets for tag in implications.reduced(np.array(one)).tolist()]


def test_of_two_tags_that_imply_each_other_the_first_stays() -> None:
    implications = of([(4, 2), (2, 4), (4, 1)])
    assert implications.reduced(np.array([4, 2, 1])).tolist() == [2]
    assert implications.reduced(np.array([4, 1])).tolist() == [4]
    assert implications.effects(2).tolist() == [1, 4]


def test_none_imply_nothing_and_a_pair_beyond_the_tags_is_an_error() -> None:
    none = Implications.none(3)
    assert none.reduced(np.array([2, 0])).tolist() == [2, 0]
    assert none.implied_by(np.array([0, 1])).tolist() == []
    assert Implications.none(0).pairs.shape == (0, 2)
    with pytest.raises(ValueError, match="is of tag 3 of 3; build the vocab again"):
        of([(0, 3)], 3)


def test_a_closure_without_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implications_module, "_MAX_PAIRS", 3)
    with pytest.raises(ValueError, match="more than 3 pairs of tags; correct their table"):
        of([(tag, tag + 1) for tag in range(6)])
