"""The index beside comparing every vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from booru_embed_core.search.vector_index import MIN_RECALL, WANTED_RECALL, SearchError, VectorIndex, index_recall

NUM, DIM = 3000, 12


def unit(num: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(num, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS = unit(NUM, 0).astype(np.float16)
QUERIES = unit(200, 1)


@pytest.fixture(scope="module")
def index() -> VectorIndex:
    made = VectorIndex.build(VECTORS)
    made.tune(QUERIES[:100])
    return made


def exact(query: NDArray[np.float32], k: int, passing: NDArray[np.bool_]) -> NDArray[np.float32]:
    return -np.sort(-(VECTORS[passing].astype(np.float32) @ query))[:k]


def test_ten_nearest_are_found_as_often_as_asked_without_reading_everything(index: VectorIndex) -> None:
    assert (index.num_rows, index.dim, index.num_lists) == (NUM, DIM, NUM // 39)
    assert 1 < index.nprobe < index.num_lists
    found = np.stack([index.search(query, 10)[0] for query in QUERIES[100:]])
    best = np.argsort(-(QUERIES[100:] @ VECTORS.astype(np.float32).T), axis=1)[:, :10]
    assert index_recall(found, best) >= MIN_RECALL
    assert index.recall(QUERIES[100:]) == pytest.approx(index_recall(found, best), abs=0.002)


@settings(max_examples=60, deadline=None)
@given(
    query=st.integers(0, 199),
    k=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.002, 0.02, 0.3]),
    seed=st.integers(0, 99),
)
def test_only_rows_that_pass_are_found_and_as_many_as_there_are(
    index: VectorIndex, query: int, k: int, share: float, seed: int
) -> None:
    passing = np.random.default_rng(seed).random(NUM) < share
    rows, scores = index.search(QUERIES[query], k, passing)
    assert passing[rows].all()
    assert len(rows) == len(set(rows.tolist())) == min(k, passing.sum())
    assert np.all(np.diff(scores) <= 0)
    assert scores == pytest.approx(VECTORS[rows].astype(np.float32) @ QUERIES[query], abs=1e-4)
    if share <= 0.02:  # so few that every list is read
        assert scores == pytest.approx(exact(QUERIES[query], k, passing), abs=1e-4)


def test_rows_that_pass_far_from_the_query_are_found_too(index: VectorIndex) -> None:
    scores = VECTORS.astype(np.float32) @ QUERIES[0]
    passing = scores < np.median(scores)
    rows, found = index.search(QUERIES[0], 500, passing)
    assert len(rows) == 500
    assert passing[rows].all()
    assert len(index.search(QUERIES[0], NUM)[0]) == NUM
    assert found[0] >= exact(QUERIES[0], 100, passing)[-1]


def test_a_filter_leaves_the_file_of_an_index_as_it_was(tmp_path: Path) -> None:
    made = VectorIndex.build(VECTORS)
    made.save(tmp_path / "before.faiss")
    made.search(QUERIES[0], 10, np.arange(NUM) % 3 == 0)
    made.save(tmp_path / "after.faiss")
    assert (tmp_path / "after.faiss").read_bytes() == (tmp_path / "before.faiss").read_bytes()


def test_a_query_reads_the_fewest_lists_that_find_enough() -> None:
    made = VectorIndex.build(VECTORS)
    recall = made.tune(QUERIES)
    assert recall >= WANTED_RECALL
    assert made.recall(QUERIES) == pytest.approx(recall, abs=1e-3)
    made.nprobe -= 1
    assert made.recall(QUERIES) < WANTED_RECALL


def test_pairs_above_a_bound_are_those_of_comparing_all(index: VectorIndex) -> None:
    queries, rows = index.within(QUERIES[:20], 0.7, index.num_lists)
    expected = np.nonzero(QUERIES[:20] @ VECTORS.astype(np.float32).T > 0.7)
    assert set(zip(queries.tolist(), rows.tolist(), strict=True)) == set(
        zip(*(e.tolist() for e in expected), strict=True)
    )
    assert len(rows) > 20


def test_an_index_that_was_saved_finds_the_same(index: VectorIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "index")
    again = VectorIndex.open(tmp_path / "index", index.nprobe)
    for query in QUERIES[:5]:
        assert [array.tolist() for array in again.search(query, 7)] == [a.tolist() for a in index.search(query, 7)]


def test_vectors_beyond_a_few_are_searched_in_lists_of_similar_size(index: VectorIndex) -> None:
    sizes = np.array([index._index.get_list_size(number) for number in range(index.num_lists)])
    assert sizes.sum() == NUM
    assert sizes.max() < 4 * NUM / index.num_lists


@pytest.mark.parametrize("num", [1, 5])
def test_a_few_rows_are_an_index_as_well(num: int) -> None:
    small = VectorIndex.build(VECTORS[:num])
    assert small.tune(QUERIES[:3]) == 1
    assert sorted(small.search(QUERIES[0], 10)[0].tolist()) == list(range(num))


@pytest.mark.parametrize("damage", [lambda data: data[:-50], lambda data: b"no index at all", None])
def test_a_file_that_is_no_index_is_refused_in_one_line(index: VectorIndex, tmp_path: Path, damage: object) -> None:
    file = tmp_path / "index"
    index.save(file)
    file.write_bytes(damage(file.read_bytes())) if callable(damage) else file.unlink()
    with pytest.raises(SearchError, match="not an index") as caught:
        VectorIndex.open(file, 1)
    assert "\n" not in str(caught.value)
