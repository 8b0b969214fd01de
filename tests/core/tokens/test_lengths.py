"""Lengths of captions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from export_helpers import Walked, csv_bytes, row, walk

from booru_embed_core.schema import TAG_COLUMNS
from booru_embed_core.tokens.lengths import LENGTHS_SCHEMA, caption_lengths, write_caption_lengths


def test_lengths_of_a_small_export(tmp_path: Path) -> None:
    rows = [row(1, "a b c"), row(2, "a", artist="x y"), row(3, "a"), row(4, "")]
    (tmp_path / "export.csv").write_bytes(csv_bytes(rows))
    walked = walk(tmp_path / "export.csv", tmp_path)
    assert caption_lengths(walked.packed).to_pydict() == {
        "length": [0, 1, 2, 3],
        "num_posts": [1, 1, 0, 2],
        "share_covered": [0.25, 0.5, 0.5, 1.0],
    }


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
