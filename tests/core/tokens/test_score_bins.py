"""Score deciles: by rating, monotonic, and equal for arrays and tensors even at an edge."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from booru_embed_core.schema import NUM_SCORE_BINS, RATINGS
from booru_embed_core.tokens.score_bins import score_bin_edges, score_bins


def edges_of(ratings: list[int], scores: list[int]) -> NDArray[np.float64]:
    return np.array(score_bin_edges(np.array(ratings, np.uint8), np.array(scores, np.int32)))


def test_scores_fall_into_deciles_of_their_own_rating() -> None:
    # Rating 0 has the scores 0 to 99, rating 2 has 1000 to 1099; rating 1 has one post; rating 3 has none.
    ratings, scores = [0] * 100 + [2] * 100 + [1], [*range(100), *range(1000, 1100), 7]
    edges = edges_of(ratings, scores)
    assert edges.shape == (len(RATINGS), NUM_SCORE_BINS - 1)
    bins = score_bins(np.array(scores), edges[ratings])
    for first in (0, 100):
        of_rating = bins[first : first + 100]
        assert np.abs(np.bincount(of_rating, minlength=10) - 10).max() <= 1
        assert np.array_equal(of_rating, np.sort(of_rating))
    far = score_bins(np.array([-(2**31), 2**31 - 1, 999, 2000, 5]), edges[[0, 0, 2, 2, 3]])
    assert far.tolist()[:4] == [0, 9, 0, 9]
    assert 0 <= far[4] <= 9


def test_a_score_at_an_edge_is_in_the_decile_above_it() -> None:
    edges = np.array([10.0 * number for number in range(1, NUM_SCORE_BINS)])
    for number, edge in enumerate(edges.astype(np.int64), start=1):
        found = score_bins(np.array([edge - 1, edge, edge + 1]), np.tile(edges, (3, 1)))
        assert found.tolist() == [number - 1, number, number]
    # A score that many posts share is several edges at once.
    assert score_bins(np.array([4, 5]), np.tile([5.0] * 6 + [7.0] * 3, (2, 1))).tolist() == [0, 6]


SCORES = st.lists(st.integers(-20, 20), min_size=1, max_size=40)


@given(scores=SCORES, asked=st.lists(st.integers(-30, 30), min_size=2, max_size=10).map(sorted))
@settings(deadline=None)
def test_a_higher_score_is_never_in_a_lower_bin(scores: list[int], asked: list[int]) -> None:
    edges = edges_of([1] * len(scores), scores)[1]
    bins = score_bins(np.array(asked), np.tile(edges, (len(asked), 1))).tolist()
    assert bins == sorted(bins)
    assert all(0 <= one < NUM_SCORE_BINS for one in bins)


@given(scores=SCORES, data=st.data())
@settings(deadline=None)
def test_arrays_and_tensors_have_the_same_bins(scores: list[int], data: st.DataObject) -> None:
    """Edges are occurring scores, so many of the tested scores lie on one."""
    edges = edges_of([1] * len(scores), scores)[1]
    asked = np.array(data.draw(st.lists(st.sampled_from(scores) | st.integers(-30, 30), min_size=1)), np.int64)
    found = score_bins(asked, np.tile(edges, (len(asked), 1)))
    by_torch = score_bins(torch.from_numpy(asked), torch.from_numpy(np.tile(edges, (len(asked), 1))))
    assert by_torch.dtype == torch.int64
    assert by_torch.tolist() == found.tolist() == [int(score_bins(one, edges)) for one in asked]
