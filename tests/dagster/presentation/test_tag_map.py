"""Where tags lie on the plane."""

from __future__ import annotations

import numpy as np
import pytest

from booru_embed_dagster.presentation import tag_map
from booru_embed_dagster.presentation.tag_map import map_tags, most_used


def clusters(num_each: int) -> np.ndarray:
    generator = np.random.default_rng(1)
    centres = np.eye(8, dtype=np.float32)[:2]
    vectors = np.repeat(centres, num_each, axis=0) + generator.normal(0, 0.05, (2 * num_each, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("num_each", [3, 20])
def test_like_tags_lie_together(num_each: int) -> None:
    places = map_tags(clusters(num_each))
    assert places.shape == (2 * num_each, 2)
    one, other = places[:num_each], places[num_each:]
    apart = np.linalg.norm(one.mean(axis=0) - other.mean(axis=0))
    assert apart > 2 * max(np.linalg.norm(part - part.mean(axis=0), axis=1).mean() for part in (one, other))


def test_the_map_is_the_same_each_time() -> None:
    assert np.array_equal(map_tags(clusters(10)), map_tags(clusters(10)))


def test_many_tags_lie_beside_their_neighbours_too(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clusters(40)[np.random.default_rng(2).permutation(80)]
    monkeypatch.setattr(tag_map, "_FIRST_TAGS", 30)
    places = map_tags(vectors)
    assert places.shape == (80, 2)
    assert np.array_equal(places, map_tags(vectors))
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(80)
    is_one = vectors[:, 0] > vectors[:, 1]
    assert np.mean(is_one[distances.argmin(axis=1)] == is_one) == 1


@pytest.mark.parametrize("num_tags", [1, 2, 9, 10])
def test_few_tags_have_places_too(num_tags: int) -> None:
    places = map_tags(clusters(5)[:num_tags])
    assert places.shape == (num_tags, 2)
    assert np.isfinite(places).all()


def test_the_most_used_come_first_and_ties_in_order() -> None:
    assert most_used(np.array([3, 9, 3, 1]), limit=3).tolist() == [1, 0, 2]
