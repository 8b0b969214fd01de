"""Groups of near duplicates beside those of a loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from booru_embed_core.search import near_duplicates as module
from booru_embed_core.search.folder import read_vectors
from booru_embed_core.search.near_duplicates import near_duplicates
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.vectors import unit_vectors


def expected_groups(search: PostSearch, above: float) -> tuple[set[frozenset[int]], dict[int, float]]:
    vectors = read_vectors(search.folder).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    has_tags = np.diff(search.table.tags.offsets) > 0
    groups = {row: {row} for row in np.flatnonzero(has_tags).tolist()}
    best: dict[int, float] = {}
    for one in groups:
        for other in groups:
            if one != other and cosines[one, other] >= above:
                best[one] = max(best.get(one, -1), cosines[one, other])
                if groups[one] is not groups[other]:
                    joined = groups[one] | groups[other]
                    for row in joined:
                        groups[row] = joined
    ids = search.table.post_id
    return (
        {frozenset(int(ids[row]) for row in group) for group in groups.values() if len(group) > 1},
        {int(ids[row]): cosine for row, cosine in best.items()},
    )


@pytest.mark.parametrize("above", [0.9, 0.97, 0.999])
@pytest.mark.parametrize("max_exact", [10**6, 0])
def test_groups_are_those_that_pairs_link(
    post_search: PostSearch, monkeypatch: pytest.MonkeyPatch, above: float, max_exact: int
) -> None:
    monkeypatch.setattr(module, "MAX_EXACT_POSTS", max_exact)
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", 7000)
    monkeypatch.setattr(module, "_INDEXED_ROWS", 70)
    monkeypatch.setattr(module, "_MAX_PAIRS", 50)
    table = near_duplicates(post_search, above)
    expected, best = expected_groups(post_search, above)
    rows = table.to_pylist()
    found: dict[int, set[int]] = {}
    for row in rows:
        found.setdefault(row["group"], set()).add(row["post_id"])
    assert {frozenset(group) for group in found.values()} == expected
    assert expected
    assert sorted(found) == list(range(len(expected)))
    for row in rows:
        assert row["num_posts"] == len(found[row["group"]])
        assert row["similarity"] == pytest.approx(best[row["post_id"]], abs=1e-5)
    firsts = [min(group) for _, group in sorted(found.items())]
    assert firsts == sorted(firsts)


def test_without_near_duplicates_the_table_is_empty(post_search: PostSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_vectors", lambda _: np.eye(300, dtype=np.float16))
    table = near_duplicates(post_search, 0.5)
    assert table.num_rows == 0
    assert table.column_names == ["group", "num_posts", "post_id", "rating", "score", "similarity"]


def test_pairs_come_in_pieces_however_many_are_near(post_search: PostSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    num = post_search.num_posts
    alike = np.ones((num, 16), np.float32) + np.random.default_rng(0).normal(0, 0.1, (num, 16)).astype(np.float32)
    monkeypatch.setattr(module, "_MAX_PAIRS", 100)
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", 20 * num)
    vectors = unit_vectors(alike)
    pieces = [pair for _, pair, _ in module._exact_pairs(vectors, 0.01)]
    assert max(len(one) for one, _ in pieces) <= 100
    seen = [(int(one), int(other)) for ones, others in pieces for one, other in zip(ones, others, strict=True)]
    assert sorted(seen) == [(one, other) for one in range(num) for other in range(one + 1, num)]
    monkeypatch.setattr(module, "read_vectors", lambda _: alike.astype(np.float16))
    found = near_duplicates(post_search, 0.01)
    assert set(found["group"].to_pylist()) == {0}
    unit = unit_vectors(alike.astype(np.float16).astype(np.float32))
    has_tags = np.flatnonzero(np.diff(post_search.table.tags.offsets))
    cosines = unit[has_tags] @ unit[has_tags].T - 2 * np.eye(len(has_tags))
    assert found["similarity"].to_pylist() == pytest.approx(cosines.max(axis=1).tolist(), abs=1e-5)


@pytest.mark.parametrize("above", [0, -0.5, 1.01, float("nan")])
def test_a_bound_that_is_no_cosine_is_refused(post_search: PostSearch, above: float) -> None:
    with pytest.raises(ValueError, match="is not between 0 and 1"):
        near_duplicates(post_search, above)
