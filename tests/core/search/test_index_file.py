"""The index written from blocks beside faiss's own file of all vectors at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from booru_embed_core.search import index_file
from booru_embed_core.search.index_file import write_index
from booru_embed_core.search.vector_index import WANTED_RECALL, Float16, VectorIndex
from tests.core.search.test_vector_index import DIM, NUM, QUERIES, VECTORS


def blocks(size: int, vectors: Float16 = VECTORS) -> index_file.Blocks:
    def every() -> Iterator[Float16]:
        for start in range(0, len(vectors), size):
            yield vectors[start : start + size]

    return every


def test_blocks_give_the_bytes_of_all_vectors_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = VectorIndex.build(VECTORS)
    recall = whole.tune(QUERIES)
    whole.save(tmp_path / "whole")
    expected = (tmp_path / "whole").read_bytes()
    threads = faiss.omp_get_max_threads()
    for size, num_threads, group_bytes in ((700, 1, 1 << 28), (1 << 20, 3, 2 * DIM * 100), (64, 3, 2 * DIM * 1000)):
        monkeypatch.setattr(index_file, "_MAX_THREADS", num_threads)
        monkeypatch.setattr(index_file, "_GROUP_BYTES", group_bytes)
        faiss.omp_set_num_threads(num_threads)
        written, found = write_index(tmp_path / "blocks", NUM, blocks(size), QUERIES)
        assert (tmp_path / "blocks").read_bytes() == expected
        assert written.nprobe == whole.nprobe
        assert found == pytest.approx(recall, abs=0.002)
        assert faiss.omp_get_max_threads() == num_threads
    faiss.omp_set_num_threads(threads)


def test_the_recall_is_that_of_searching(tmp_path: Path) -> None:
    written, recall = write_index(tmp_path / "index", NUM, blocks(1000), QUERIES)
    assert WANTED_RECALL <= recall < 1
    assert written.recall(QUERIES) == pytest.approx(recall, abs=0.002)
    written.nprobe //= 2
    assert written.recall(QUERIES) < WANTED_RECALL


@pytest.mark.parametrize("vectors", [VECTORS[:1], VECTORS[:50], np.repeat(VECTORS[:1], 500, axis=0)])
def test_a_few_rows_and_equal_rows_are_an_index_as_well(tmp_path: Path, vectors: Float16) -> None:
    written, recall = write_index(tmp_path / "index", len(vectors), blocks(30, vectors), QUERIES[:9])
    assert recall >= WANTED_RECALL
    assert sorted(written.search(QUERIES[0], len(vectors))[0].tolist()) == list(range(len(vectors)))
