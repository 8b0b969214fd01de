"""Searches among some rows beside comparing all of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from booru_embed_core.search import stored_vectors, vector_index
from booru_embed_core.search.stored_vectors import StoredVectors, one_thread
from booru_embed_core.search.vector_index import VectorIndex
from tests.core.search.test_vector_index import NUM, QUERIES, VECTORS, exact

SCORES = VECTORS.astype(np.float32) @ QUERIES[0]
MASKS = {
    "near": SCORES + np.random.default_rng(4).normal(0, 0.2, NUM) > 0.2,
    "far": np.quantile(SCORES, 0.4) > SCORES,
    "nearest": np.quantile(SCORES, 0.8) < SCORES,
    "random": np.random.default_rng(5).random(NUM) < 0.3,
    "most": np.random.default_rng(6).random(NUM) < 0.9,
}

WAYS = ((True, False), (False, False), (False, True))
"""To read lists: compare all rows of them, ask each row whether it passes, or list the rows that pass first."""


@pytest.fixture(scope="module")
def built() -> VectorIndex:
    return VectorIndex.build(VECTORS)


@pytest.fixture(params=["built", "opened"])
def index(request: pytest.FixtureRequest, built: VectorIndex, tmp_path: Path) -> VectorIndex:
    """An index in memory, and one whose vectors are mmapped; both read one list until a test says otherwise."""
    built.nprobe = 1
    if request.param == "built":
        return built
    built.save(tmp_path / "index")
    return VectorIndex.open(tmp_path / "index", 1)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("is_dense", "is_listed"), WAYS)
def test_reading_all_lists_gives_the_best_of_any_mask(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch, mask: str, is_dense: bool, is_listed: bool
) -> None:
    monkeypatch.setattr(vector_index, "_EXACT_ROWS", 0)
    monkeypatch.setattr(vector_index, "_is_dense", lambda *_: is_dense)
    monkeypatch.setattr(vector_index, "_is_listed", lambda *_: is_listed)
    monkeypatch.setattr(stored_vectors, "_CHUNK_ROWS", 100)
    index.nprobe = index.num_lists
    for k in (1, 20, 150):
        wanted = exact(QUERIES[0], k, MASKS[mask])
        for passing in (MASKS[mask], np.flatnonzero(MASKS[mask]).astype(np.uint32)):
            rows, scores = index.search(QUERIES[0], k, passing)
            assert MASKS[mask][rows].all()
            assert len(set(rows.tolist())) == k
            assert scores == pytest.approx(wanted, abs=1e-4)
            assert scores == pytest.approx(SCORES[rows], abs=1e-4)


def test_few_rows_are_all_compared_however_few_lists_a_query_reads(index: VectorIndex) -> None:
    for mask in MASKS.values():
        for passing in (mask, np.flatnonzero(mask)):
            rows, scores = index.search(QUERIES[0], 9, passing)
            assert rows.dtype == np.int64
            assert scores == pytest.approx(exact(QUERIES[0], 9, mask), abs=1e-4)


@pytest.mark.parametrize(("is_dense", "is_listed"), WAYS)
def test_lists_without_enough_rows_are_followed_by_all(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch, is_dense: bool, is_listed: bool
) -> None:
    monkeypatch.setattr(vector_index, "_EXACT_ROWS", 0)
    monkeypatch.setattr(vector_index, "_EXPONENT", 100)  # the first list is enough
    monkeypatch.setattr(vector_index, "_is_dense", lambda *_: is_dense)
    monkeypatch.setattr(vector_index, "_is_listed", lambda *_: is_listed)
    for passing in (MASKS["far"], np.flatnonzero(MASKS["far"])):
        scores = index.search(QUERIES[0], 200, passing)[1]
        assert scores == pytest.approx(exact(QUERIES[0], 200, MASKS["far"]), abs=1e-4)
        assert len(index.search(QUERIES[0], NUM, passing)[0]) == MASKS["far"].sum()


def test_the_fewer_rows_pass_the_more_lists_and_the_fewer_vectors_are_read(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "_EXACT_ROWS", 0)
    monkeypatch.setattr(vector_index, "_is_dense", lambda *_: False)
    read: list[tuple[int, int]] = []
    real = StoredVectors.nearest_in_lists

    def nearest(self: StoredVectors, lists: NDArray[np.int64], chosen: NDArray[np.integer], *rest: object) -> object:
        read.append((len(lists), int(np.isin(self.list_of[chosen], lists).sum())))
        return real(self, lists, chosen, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(StoredVectors, "nearest_in_lists", nearest)
    index.nprobe = 5
    for share in (0.9, 0.5, 0.1):
        index.search(QUERIES[1], 5, np.flatnonzero(np.random.default_rng(1).random(NUM) < share))
    lists, rows = zip(*read, strict=True)
    assert 5 <= lists[0] < lists[1] < lists[2] < index.num_lists
    assert rows[0] > rows[1] > rows[2]
    stored = index._stored_vectors()
    wanted = 5 * stored.mean_size * (np.array([0.9, 0.5, 0.1]) ** vector_index._EXPONENT)
    assert np.all(np.abs(np.array(rows) - wanted) < stored.sizes.max())


def test_threads_that_search_at_once_find_the_same(index: VectorIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "_EXACT_ROWS", 500)
    tasks = [(query, mask) for query in QUERIES[:10] for mask in (*MASKS.values(), None)]

    def search(task: tuple[NDArray[np.float32], NDArray[np.bool_] | None]) -> list[list[float]]:
        return [array.tolist() for array in index.search(task[0], 10, task[1])]

    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(search, tasks))
    assert at_once == [search(task) for task in tasks]


def test_a_mask_is_sampled_and_few_rows_are_counted(built: VectorIndex) -> None:
    stored = StoredVectors(built._index)
    rows = np.flatnonzero(MASKS["random"])
    counted = np.bincount(stored.list_of[rows], minlength=built.num_lists)
    assert stored.num_of_lists(rows, len(rows)).tolist() == counted.tolist()
    every = stored.num_of_lists(np.ones(NUM, np.bool_), NUM)
    assert every.sum() == pytest.approx(NUM, abs=31)
    assert stored.sizes.tolist() == np.bincount(stored.list_of).tolist()


def test_faiss_keeps_its_number_of_threads_after_an_error() -> None:
    threads = faiss.omp_get_max_threads()
    with one_thread():
        assert faiss.omp_get_max_threads() == 1
        with pytest.raises(KeyError), one_thread():
            raise KeyError
    assert faiss.omp_get_max_threads() == threads
