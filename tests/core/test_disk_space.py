"""Room on a disk is asked for before a stage begins, and never more than the stage writes."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from booru_embed_core import disk_space
from booru_embed_core.disk_space import (
    SMALL_PRODUCT,
    check_room,
    packed_bytes,
    posts_bytes,
    search_bytes,
    still_needed,
    tag_vectors_bytes,
    training_bytes,
)
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.errors import DiskError, disk_errors
from booru_embed_core.export.tag_vectors import write_parquet
from booru_embed_core.filesystem import folder_bytes
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.settings import DuckdbSettings, PostsSettings, TokensSettings
from booru_embed_core.tokens.encode import encode_posts
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.training.loop import train
from tests.core.export_helpers import Walked
from tests.core.model_helpers import Trained, model_settings, training_settings
from tests.core.search_helpers import index

MB = 1_000_000


def leave(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    """Lets every disk have `num_bytes` left."""
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(free=num_bytes, total=36 * MB))


def test_too_little_room_is_told_with_what_is_needed_and_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 3 * MB)
    folder = tmp_path / "not/there/yet"
    check_room(folder, 3 * MB, "posts")
    with pytest.raises(DiskError) as caught:
        check_room(folder, 3 * MB + 1, "posts", "set [warehouse] path to another disk")
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value) == (
        f"{folder}: needs at least 3.0 MB for posts, and 3.0 MB are free; free some space, or set [warehouse] path to "
        "another disk"
    )


def test_a_caller_names_its_own_folder_and_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 0)
    with pytest.raises(DiskError) as caught, disk_errors(tmp_path, "choose another --out"):
        check_room(tmp_path / ".drafts/x", 2 * MB, "posts")
    assert str(caught.value) == (
        f"{tmp_path}: needs at least 2.0 MB for posts, and 0 kB are free; free some space, or choose another --out"
    )


def test_a_folder_that_cannot_be_looked_at_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(disk_space.shutil, "disk_usage", deny)
    check_room(tmp_path, MB, "posts")


def test_no_estimate_exceeds_what_a_stage_wrote(
    sample: Walked, trained: Trained, search_folder: Path, search_embedder: BooruEmbedder, tmp_path: Path
) -> None:
    embedder = search_embedder
    wrote = folder_bytes(sample.posts_dir)
    assert wrote / 40 < posts_bytes([(sample.export.name, sample.export.stat().st_size)], True) < wrote
    wrote = sample.packed_path.stat().st_size
    assert wrote / 4 < packed_bytes(sample.packed.num_posts) < wrote
    base, vocab, dim = trained.checkpoint.parents[2], embedder.vocab, embedder.embedding_dim
    wrote = folder_bytes(base / "work") + folder_bytes(trained.checkpoint)
    width = embedder.config.model.width
    assert wrote / 40 < training_bytes(vocab.num_special + vocab.num_tags, width, 2, True) < wrote
    wrote = folder_bytes(search_folder) + folder_bytes(base / "searched-work")
    num_posts = PackedFile.open(trained.corpus.packed_path).num_posts
    assert search_bytes(num_posts, dim) < wrote
    assert search_bytes(1000 * num_posts, dim) > SMALL_PRODUCT
    write_parquet(embedder, tmp_path)
    assert tag_vectors_bytes(vocab.num_tags, dim) <= max(SMALL_PRODUCT, folder_bytes(tmp_path))
    assert tag_vectors_bytes(1000 * vocab.num_tags, dim) == 2000 * vocab.num_tags * dim


def test_a_stage_is_refused_before_it_writes(
    sample: Walked, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 1000)
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    settings = PostsSettings(export=(str(sample.export),))
    with pytest.raises(DiskError, match=f"^{out}: needs at least [0-9]+ kB for posts, and 1 kB are free; free some"):
        read_export(settings, tmp_path, out, DuckdbSettings(threads=1))
    with pytest.raises(DiskError, match=f"^{out}: needs at least [0-9.]+ [kM]B for packed_tokens"):
        encode_posts(sample.posts_dir, sample.vocab, out, TokensSettings())
    with pytest.raises(DiskError, match=f"^{work}: needs at least [0-9.]+ [kM]B for training"):
        train(trained.corpus.packed_path, trained.corpus.vocab_dir, work, out, model_settings(), training_settings())
    with pytest.raises(DiskError, match=f"^{out}: needs at least [0-9.]+ [kM]B for post embeddings"):
        index(trained, out, tmp_path / "parts")
    assert list(out.iterdir()) == []
    assert not work.exists()


def test_posts_that_settings_may_leave_out_take_no_room() -> None:
    assert posts_bytes([("posts.csv.gz", 1000 * MB)], False) == SMALL_PRODUCT
    assert posts_bytes([("posts.db", 1000 * MB)], True) == SMALL_PRODUCT  # it may hold other tables
    assert posts_bytes([("a.CSV", 100 * MB), ("b.jsonl.zst", 100 * MB)], True) == pytest.approx(5.5 * MB)


def test_what_an_interrupted_run_left_is_not_needed_again(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(bytes(600))
    assert still_needed(1000, tmp_path) == 400
    assert still_needed(100, tmp_path) == 0
    assert still_needed(100, tmp_path / "none") == 100
