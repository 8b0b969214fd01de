"""Implications against the obvious loop, and what is left of a task without them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.evaluation import implied as implied_module
from booru_embed_core.evaluation.implied import implied_pairs, without_implied
from booru_embed_core.tokens import cooccurrence
from booru_embed_core.tokens.cooccurrence import count_cooccurrence
from tests.core.evaluation.evaluation_helpers import CAPTIONS, NUM_TAGS, captions_of, held_out_of, rows_of

RULES = st.tuples(st.sampled_from([0.3, 0.5, 0.98, 1.0]), st.integers(1, 3))


def implied_slowly(rows: list[list[int]], threshold: float, min_count: int) -> set[tuple[int, int]]:
    posts = {tag: {i for i, row in enumerate(rows) if tag in row} for tag in range(NUM_TAGS)}
    return {
        (a, b)
        for a in posts
        for b in posts
        if a != b and len(posts[a]) >= min_count and len(posts[a] & posts[b]) > threshold * len(posts[a])
    }


@given(CAPTIONS, RULES)
def test_implications_are_those_of_the_loop(rows: list[list[int]], rule: tuple[float, int]) -> None:
    found = implied_pairs(captions_of(rows), *rule)
    assert set(zip(*(axis.tolist() for axis in found.nonzero()), strict=True)) == implied_slowly(rows, *rule)
    assert found.shape == (NUM_TAGS, NUM_TAGS)


@given(CAPTIONS, RULES, st.integers(1, NUM_TAGS), st.integers(1, 2))
@settings(deadline=None, max_examples=25)
def test_no_implication_is_missed_whatever_is_counted_or_looked_at_first(
    rows: list[list[int]], rule: tuple[float, int], max_tags: int, first_posts: int
) -> None:
    captions = captions_of(rows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(implied_module, "_FIRST_POSTS", first_posts)
        patched.setattr(implied_module, "_USES_AT_A_TIME", 1)
        patched.setattr(cooccurrence, "_CHUNK_POSTS", 2)
        found = implied_pairs(captions, *rule, count_cooccurrence(captions, max_tags))
    assert set(zip(*(axis.tolist() for axis in found.nonzero()), strict=True)) == implied_slowly(rows, *rule)


@given(CAPTIONS, st.sets(st.tuples(st.integers(0, NUM_TAGS - 1), st.integers(0, NUM_TAGS - 1)), max_size=12))
def test_what_a_visible_tag_implies_is_no_target_and_in_no_ranking(
    rows: list[list[int]], pairs: set[tuple[int, int]]
) -> None:
    held_out = held_out_of(rows)
    implied = captions_of([[b for a, b in pairs if a == tag] for tag in range(NUM_TAGS)]).astype(bool)
    left = without_implied(held_out, implied)
    expected = []
    for index, visible, hidden in zip(
        held_out.post_index.tolist(), rows_of(held_out.visible), rows_of(held_out.hidden), strict=True
    ):
        reached = {b for a, b in pairs if a in visible}
        targets = sorted(set(hidden) - reached)
        if targets:
            expected.append((index, visible, targets, sorted({*visible, *reached})))
    assert expected == list(
        zip(left.post_index.tolist(), rows_of(left.visible), rows_of(left.hidden), rows_of(left.filtered), strict=True)
    )
    assert set(left.filtered.data.tolist()) | set(left.hidden.data.tolist()) <= {1.0}
