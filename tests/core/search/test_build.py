"""Every post is embedded once, part after part, with the vector of the embedder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.filesystem import ForeignPathError, file_sha256, locked_folder
from booru_embed_core.schema import RATINGS
from booru_embed_core.search import build, index_file
from booru_embed_core.search.build import make_search_folder, vectors_schema
from booru_embed_core.search.folder import PART_FILES, read_vectors
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.search.vector_index import SearchError
from tests.core.model_helpers import Trained
from tests.core.search_helpers import PART_POSTS, index


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_parts_hold_every_post_with_the_embedders_vector(
    trained: Trained, search_folder: Path, search_embedder: BooruEmbedder
) -> None:
    packed = trained.corpus.packed
    files = sorted(search_folder.glob(PART_FILES))
    assert [pq.read_metadata(file).num_rows for file in files] == [PART_POSTS] * 4 + [300 - 4 * PART_POSTS]
    table = pq.read_table(files)
    assert table.schema.equals(vectors_schema(16))
    assert table["post_id"].to_pylist() == packed.post_id.tolist()
    assert table["rating"].to_pylist() == [RATINGS[rating] for rating in packed.rating]
    assert table["score"].to_pylist() == packed.score.tolist()
    spellings, vocab = search_embedder.tokenizer.spellings, search_embedder.vocab
    ids = [packed.record_token_ids(row, vocab) - vocab.num_special for row in range(300)]
    expected = search_embedder.embed([" ".join(spellings[i] for i in record) for record in ids])
    assert np.abs(read_vectors(search_folder) - expected).max() < 1e-3


def test_an_interrupted_run_goes_on_with_the_parts_that_are_finished(
    trained: Trained, search_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, embedded = build._Embedding.embed, []

    def interrupted(self: build._Embedding, tags: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        embedded.append(len(lengths))
        if len(embedded) == 3:
            raise KeyboardInterrupt
        return real(self, tags, lengths)

    monkeypatch.setattr(build._Embedding, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index(trained, tmp_path / "out", tmp_path / "work")
    (tmp_path / "work" / "part-00001.parquet").write_bytes(b"cut short")
    lines: list[str] = []
    index(trained, tmp_path / "again", tmp_path / "work", lines)
    # The first part is kept; the damaged second one, the three missing ones and the queries are embedded.
    assert embedded[3:] == [64, 64, 64, 300 - 4 * 64, build.NUM_QUERIES]
    assert "128 of 300 posts embedded" in lines[0]
    assert "64 of 300 posts were embedded before" in lines
    assert contents(tmp_path / "again") == contents(search_folder)


def test_an_interrupted_index_goes_on_with_its_lists(
    trained: Trained, search_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(index_file, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index(trained, tmp_path / "out", tmp_path / "work")
    monkeypatch.setattr(index_file, "trained_lists", lambda *_: pytest.fail("the lists were trained before"))
    lines: list[str] = []
    index(trained, tmp_path / "again", tmp_path / "work", lines)
    assert "6 parts of the index were finished before" in lines  # the centroids and five parts of posts
    assert contents(tmp_path / "again") == contents(search_folder)


def test_a_kept_part_with_a_changed_bit_is_embedded_again(search_folder: Path, tmp_path: Path) -> None:
    file, whole = tmp_path / "part", (search_folder / "part-00001.parquet").read_bytes()
    file.write_bytes(whole)
    made_from = pq.read_metadata(file).metadata[b"made_from"].decode()
    assert build._is_finished(file, made_from, 64)
    at = whole.index(read_vectors(search_folder)[64:65].tobytes())  # the vectors, and not the room between pages
    for damaged in (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole[: at + 40], whole[:-1], b""):
        file.write_bytes(damaged)
        assert not build._is_finished(file, made_from, 64)


def test_parts_of_another_checkpoint_are_not_taken(trained: Trained, tmp_path: Path) -> None:
    index(trained, tmp_path / "out", tmp_path / "work")
    before = contents(tmp_path / "work")
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "file_sha256", lambda file: file_sha256(file)[::-1])
        index(trained, tmp_path / "other", tmp_path / "work", lines)
    assert not any("before" in line for line in lines)
    assert before.keys() == contents(tmp_path / "work").keys()
    assert before != contents(tmp_path / "work")


def test_a_folder_appears_when_it_is_complete(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search_embedder: BooruEmbedder
) -> None:
    out = tmp_path / "searched"
    with monkeypatch.context() as patch:
        patch.setattr(build, "write_posts_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt, match=r"embedded posts are kept in .*/searched\.parts: the same command"):
            make_search_folder(trained.checkpoint, trained.corpus.packed_path, out)
    (out.with_name("searched.parts") / "index").mkdir()  # as after a kill
    (out.with_name("searched.parts") / "booru-embed-old").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["searched.parts"]
    lines: list[str] = []
    metadata = make_search_folder(trained.checkpoint, trained.corpus.packed_path, out, lines.append)
    assert lines[0] == "300 of 300 posts were embedded before"
    assert [path.name for path in tmp_path.iterdir()] == ["searched"]
    assert metadata.num_posts == 300
    assert metadata.recall >= 0.97
    assert len(PostSearch.open(out).search(search_embedder, "1girl", 3)) == 3
    with pytest.raises(FileExistsError, match="exists and is not an empty folder; remove it or name another --out"):
        make_search_folder(trained.checkpoint, trained.corpus.packed_path, out)
    with pytest.raises(SearchError, match="no such folder, for two"):
        make_search_folder(trained.checkpoint, trained.corpus.packed_path, tmp_path / "one" / "two")


def test_two_processes_do_not_write_to_one_folder(trained: Trained, tmp_path: Path) -> None:
    work_dir = tmp_path / "searched.parts"
    work_dir.mkdir()
    with locked_folder(work_dir), pytest.raises(ForeignPathError, match=r"searched\.parts: another process writes it"):
        make_search_folder(trained.checkpoint, trained.corpus.packed_path, tmp_path / "searched")
    assert list(tmp_path.iterdir()) == [work_dir]


def test_what_is_refused_or_interrupted_before_the_first_part_leaves_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no such"):
        make_search_folder(tmp_path / "nope", trained.corpus.packed_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(build, "_write_part", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt) as told:
        make_search_folder(trained.checkpoint, trained.corpus.packed_path, tmp_path / "out")
    assert str(told.value) == ""
    assert list(tmp_path.iterdir()) == []


def test_parts_stand_in_nobodys_place(trained: Trained, tmp_path: Path) -> None:
    photos = tmp_path / "out.parts/photos"
    photos.mkdir(parents=True)
    (tmp_path / "other.parts").symlink_to(photos.parent)
    for name in ("out", "other"):
        with pytest.raises(ForeignPathError, match="move it away"):
            make_search_folder(trained.checkpoint, trained.corpus.packed_path, tmp_path / name)
    assert photos.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"out.parts", "other.parts"}
