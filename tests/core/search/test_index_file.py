"""The index written from blocks beside faiss's own file of all vectors at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from booru_embed_core.search import index_file
from booru_embed_core.search.index_file import write_index
from booru_embed_core.search.stored_vectors import Float32
from booru_embed_core.search.vector_index import WANTED_RECALL, Float16, VectorIndex, trained_lists
from booru_embed_core.training.parts import Parts
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


def test_an_index_that_was_interrupted_goes_on_with_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_file, "_MAX_THREADS", 1)
    work, trained, read = tmp_path / "work", [], []
    work.mkdir()
    real = trained_lists

    def train(*given: object) -> Float32:
        trained.append(given)
        return real(*given)  # type: ignore[arg-type]

    def until(last: int, size: int = 500) -> index_file.Blocks:
        def every() -> Iterator[Float16]:
            for number, block in enumerate(blocks(size)()):
                if len(trained) == 1 and number == last:
                    raise KeyboardInterrupt
                yield block

        return every

    monkeypatch.setattr(index_file, "trained_lists", train)
    with pytest.raises(KeyboardInterrupt):
        write_index(tmp_path / "index", NUM, until(3), QUERIES, Parts(folder=work, made_from="x"))
    kept = sorted(file.name for file in work.iterdir())
    assert kept == ["centroids-00000.npz", "lists-00000.npz", "lists-00001.npz", "lists-00002.npz"]
    monkeypatch.setattr(Parts, "_write", lambda _, name, __: read.append(name))
    again = Parts(folder=work, made_from="x")
    write_index(tmp_path / "again", NUM, blocks(500), QUERIES, again)
    assert len(trained) == 1
    assert [f"lists-{number:05}" for number in range(3, -(-NUM // 500))] == read
    write_index(tmp_path / "whole", NUM, blocks(500), QUERIES)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
    read.clear()
    write_index(tmp_path / "other", NUM, blocks(500), QUERIES[:-1], again)  # other queries have other neighbours
    assert read == [f"lists-{number:05}" for number in range(-(-NUM // 500))]


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
