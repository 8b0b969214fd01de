"""Lengths of captions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from booru_embed_core.schema import TAG_COLUMNS, UNKNOWN_TAGS, Category
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens import lengths
from booru_embed_core.tokens.lengths import (
    LENGTHS_SCHEMA,
    SHORT_LENGTHS,
    caption_lengths,
    short_posts,
    write_caption_lengths,
)
from booru_embed_core.tokens.packed_file import PackedFile
from tests.core.export_helpers import Walked, csv_bytes, row, walk


def test_lengths_of_a_small_export(tmp_path: Path) -> None:
    rows = [row(1, "a b c"), row(2, "a", artist="x y"), row(3, "a"), row(4, "")]
    (tmp_path / "export.csv").write_bytes(csv_bytes(rows))
    walked = walk(tmp_path / "export.csv", tmp_path)
    assert caption_lengths(walked.packed).to_pydict() == {
        "length": [0, 1, 2, 3],
        "num_posts": [1, 1, 0, 2],
        "share_covered": [0.25, 0.5, 0.5, 1.0],
    }


def test_posts_without_tags_are_one_row_of_length_0() -> None:
    table = caption_lengths(packed_by_hand([[[], [], [], [], []]] * 2, vocab_of(2, 1)))
    assert table.to_pydict() == {"length": [0], "num_posts": [2], "share_covered": [1.0]}


def test_lengths_of_the_sample(sample: Walked, sample_rows: list[dict[str, str]], tmp_path: Path) -> None:
    table = write_caption_lengths(sample.packed, tmp_path)
    assert table.schema.equals(LENGTHS_SCHEMA)
    assert pq.read_table(tmp_path / "caption_lengths.parquet").equals(table)
    known = set(sample.vocab.tags)
    counter = Counter(
        sum(tag in known for name in TAG_COLUMNS for tag in post[name].split(" ")) for post in sample_rows
    )
    assert {length: posts for length, posts in enumerate(table["num_posts"].to_pylist()) if posts} == dict(counter)
    assert table["share_covered"].to_pylist()[-1] == 1.0


def packed_by_hand(fields: list[list[list[int]]], vocab: Vocab) -> PackedFile:
    """An in-memory packed file from the local ids of each post's fields."""
    field_lengths = np.array([[len(field) for field in post] for post in fields], np.uint16)
    return PackedFile(
        path=Path("in-memory"),
        tokens=np.array([token for post in fields for field in post for token in field], np.uint16),
        offsets=np.concatenate(([0], np.cumsum(field_lengths.sum(axis=1, dtype=np.uint64)))).astype(np.uint64),
        field_lengths=field_lengths,
        post_id=np.arange(len(fields), dtype=np.int64),
        rating=np.zeros(len(fields), np.uint8),
        score=np.zeros(len(fields), np.int32),
        vocab_hash=vocab.hash,
        split_settings=TokensSettings(),
    )


def vocab_of(num_general: int, num_artists: int) -> Vocab:
    """General and artist tags; the last of each is an unknown token."""
    tags = [f"tag_{number}" for number in range(num_general + num_artists)]
    tags[num_general - 1], tags[-1] = UNKNOWN_TAGS[Category.GENERAL], UNKNOWN_TAGS[Category.ARTIST]
    categories = np.repeat(np.array([0, 1], np.uint8), [num_general, num_artists])
    return Vocab(tuple(tags), categories, np.ones(len(tags), np.int64))


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_posts_that_have_hardly_a_tag_left_are_counted_without_unknown_tokens(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(lengths, "_CHUNK_POSTS", chunk)
    vocab = vocab_of(12, 3)
    fields = [
        [[*range(10), 11], [0], [], [], []],  # 10 general tags and an unknown one, an artist
        [[4, 3, 2, 1, 11], [2], [], [], []],  # 4 and an unknown one, an unknown artist
        [[11], [2], [], [], []],
        [[], [], [], [], []],
        [[2], [1, 2], [], [], []],  # general 2 is no unknown token, though artist 2 is
    ]
    packed = packed_by_hand(fields, vocab)
    found = short_posts(packed, vocab).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("all", 2, 4, 4),
        ("general", 2, 4, 4),
        ("artist", 3, 5, 5),
        *((category, 5, 5, 5) for category in ("copyright", "character", "meta")),
    ]
    assert list(found[0]) == ["tags_of", "fewer_than_1", "fewer_than_5", "fewer_than_10"]
    assert [tuple(row.values()) for row in short_posts(packed).to_pylist()][:3] == [
        ("all", 1, 3, 4),
        ("general", 1, 3, 4),
        ("artist", 1, 5, 5),
    ]


def test_short_posts_of_the_sample_are_those_of_its_lengths(sample: Walked) -> None:
    table = caption_lengths(sample.packed)
    (row, *_) = short_posts(sample.packed, sample.vocab).to_pylist()
    for length in SHORT_LENGTHS:
        assert row[f"fewer_than_{length}"] == sum(table["num_posts"].to_pylist()[:length])
