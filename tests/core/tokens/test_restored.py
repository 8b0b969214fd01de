"""Records without implied tags: nothing is lost, exceptions of implications included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.settings import PostsSettings, TokensSettings, VocabSettings
from booru_embed_core.tags.build import build_vocab
from booru_embed_core.tags.frequency import count_tags
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens import encode as encode_module
from booru_embed_core.tokens.cooccurrence import captions_from_packed
from booru_embed_core.tokens.encode import encode_posts
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile, PackedFileError
from booru_embed_core.tokens.restored import reduce_sets, restore_sets, whole_packed, whole_tags
from tests.core.export_helpers import ONE_THREAD, csv_bytes, row

NUM_TAGS = 6
TAGS = st.integers(0, NUM_TAGS - 1)
PAIRS = st.lists(st.tuples(TAGS, TAGS), max_size=8)
SETS = st.lists(st.lists(TAGS, unique=True), max_size=6)
DROPPED = TokensSettings(drop_implied=True)
POSTS = ("witch_hat hat dress", "witch_hat", "hat", "", "dress witch_hat hat rare", "rare other")


def of(pairs: list[tuple[int, int]], num_tags: int = NUM_TAGS) -> Implications:
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Implications.of_pairs(both[:, 0], both[:, 1], num_tags)


@given(PAIRS, SETS)
def test_reduced_sets_are_restored_to_what_they_were(pairs: list[tuple[int, int]], sets: list[list[int]]) -> None:
    implications = of(pairs)
    tags = np.array([tag for one in sets for tag in one], dtype=np.int64)
    lengths = np.array([len(one) for one in sets], dtype=np.int64)
    reduced = reduce_sets(implications, tags, lengths)
    of_each = np.repeat(np.arange(len(sets)), lengths)[reduced.keep]
    kept = np.bincount(of_each, minlength=len(sets))
    whole, num_whole = restore_sets(implications, tags[reduced.keep], kept, reduced.absent)
    assert [one.tolist() for one in np.split(whole, np.cumsum(num_whole)[:-1])] == (
        [sorted(one) for one in sets] or [[]]
    )
    for index, one in enumerate(sets):
        assert tags[reduced.keep][of_each == index].tolist() == implications.reduced(np.array(one)).tolist()


@pytest.fixture(scope="module")
def posts_and_vocab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Vocab]:
    folder = tmp_path_factory.mktemp("implied")
    for name in ("posts", "freq"):
        (folder / name).mkdir()
    rows = [row(number, tags, character="hero" if number % 2 else "") for number, tags in enumerate(POSTS)]
    (folder / "posts.csv").write_bytes(csv_bytes(rows))
    read_posts([folder / "posts.csv"], folder / "posts", PostsSettings(tag_separator=" "), ONE_THREAD)
    count_tags(folder / "posts", folder / "freq", ONE_THREAD)
    cut = VocabSettings(keep_percentile=100, min_count=2, unpopular="unk")
    vocab = build_vocab(folder / "freq", cut)
    index = {tag: vocab.tags.index(tag) for tag in ("witch_hat", "hat", "dress", "hero")}
    pairs = [(index["witch_hat"], index["hat"]), (index["hero"], index["witch_hat"]), (index["dress"], index["hat"])]
    return folder / "posts", replace(vocab, implications=of(pairs, vocab.num_tags))


def encoded(posts_dir: Path, vocab: Vocab, out_dir: Path, chosen: TokensSettings) -> PackedFile:
    out_dir.mkdir()
    report = encode_posts(posts_dir, vocab, out_dir, chosen)
    packed = PackedFile.open(out_dir / PACKED_FILE, vocab.hash)
    assert report.num_tokens == packed.num_tokens
    assert report.num_tokens + report.num_implied == sum(report.kept_uses.values()) + sum(report.unknown_uses.values())
    return packed


def test_an_encoded_file_without_implied_tags_is_restored_whole(
    posts_and_vocab: tuple[Path, Vocab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_module, "_POSTS_AT_A_TIME", 2)
    posts_dir, vocab = posts_and_vocab
    full = encoded(posts_dir, vocab, tmp_path / "full", TokensSettings())
    short = encoded(posts_dir, vocab, tmp_path / "short", DROPPED)
    assert full.implications_sha256 is None
    assert not (tmp_path / "full" / "absent.npy").exists()
    assert short.num_tokens < full.num_tokens
    assert short.split_settings == DROPPED
    assert np.load(tmp_path / "short" / "absent.npy").tolist()
    rows = np.array([4, 0, 0, 5, 1], dtype=np.int64)
    every = np.arange(full.num_posts, dtype=np.int64)
    for chosen in (rows, every, every[:0]):
        expected = captions_from_packed(full, vocab, chosen)
        assert (captions_from_packed(short, vocab, chosen) != expected).nnz == 0
        assert whole_tags(short, vocab, chosen)[1].tolist() == np.diff(expected.indptr).tolist()
    assert captions_from_packed(short, vocab, every, is_restored=False).nnz == short.num_tokens
    whole = whole_packed(short, vocab)
    assert whole.field_lengths.tolist() == full.field_lengths.tolist()
    assert whole.offsets.tolist() == full.offsets.tolist()
    assert sorted(whole.global_token_ids(vocab).tolist()) == sorted(full.global_token_ids(vocab).tolist())
    assert whole_packed(full, vocab) is full


def test_what_cannot_be_restored_is_told(posts_and_vocab: tuple[Path, Vocab], tmp_path: Path) -> None:
    posts_dir, vocab = posts_and_vocab
    short = encoded(posts_dir, vocab, tmp_path / "short", DROPPED)
    rows = np.arange(short.num_posts, dtype=np.int64)
    with pytest.raises(PackedFileError, match="made with other implications than those of the vocab; materialize"):
        whole_tags(short, replace(vocab, implications=of([(0, 1)], vocab.num_tags)), rows)
    file = tmp_path / "short" / "absent.npy"
    np.save(file, np.zeros(3))
    with pytest.raises(PackedFileError, match=r"absent.npy: float64 \(3,\) instead of uint32 \[n, 2\]"):
        whole_tags(short, vocab, rows)
    file.write_bytes(b"nothing")
    with pytest.raises(PackedFileError, match=r"absent.npy: damaged; materialize packed_tokens again"):
        whole_tags(short, vocab, rows)
    file.unlink()
    with pytest.raises(PackedFileError, match=r"absent.npy: no such file; materialize packed_tokens again"):
        whole_tags(short, vocab, rows)
