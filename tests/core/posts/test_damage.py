"""Exports of which a bit was changed or the end is missing: refused by name, or read to what their bytes still say."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import HOSTILE_TAGS, ONE_THREAD, csv_bytes, read_rejects, read_rows, row

pytestmark = pytest.mark.slow

NUM_CASES = 40
ROWS = [row(number, " ".join(Random(number).sample(HOSTILE_TAGS, 4)), artist="a,b") for number in range(200)]


def parquet(**options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out, **options)
    return out.getvalue()


def json_lines() -> bytes:
    return "".join(json.dumps(post, ensure_ascii=False) + "\n" for post in ROWS).encode()


CHECKED: dict[str, Callable[[], bytes]] = {
    "export.csv.gz": lambda: gzip.compress(csv_bytes(ROWS), mtime=0),
    "export.jsonl.gz": lambda: gzip.compress(json_lines(), mtime=0),
    "export.parquet": lambda: parquet(compression="zstd", write_page_checksum=True),
    "export-plain.parquet": lambda: parquet(compression="none", use_dictionary=False, write_page_checksum=True),
}
"""Kinds with checksums of their own: nothing wrong may be read."""

UNCHECKED: dict[str, Callable[[], bytes]] = {
    "export.csv.zst": lambda: bytes(pa.Codec("zstd").compress(csv_bytes(ROWS), asbytes=True)),
    "export.jsonl": json_lines,
    "export-unchecked.parquet": lambda: parquet(compression="snappy"),
    "export-unchecked-plain.parquet": lambda: parquet(compression="none", use_dictionary=False),
}
"""Kinds without: what is read is read by the rules all the same."""


def damaged(content: bytes, random: Random) -> bytes:
    """`content` cut somewhere, or with one bit changed; the ends, where the metadata are, more often."""
    position = random.choice(
        [random.randrange(len(content)), random.randrange(min(100, len(content))), -random.randint(1, 1000)]
    )
    position %= len(content)
    if random.random() < 0.25:
        return content[: max(position, 1)]
    return content[:position] + bytes([content[position] ^ 1 << random.randrange(8)]) + content[position + 1 :]


@pytest.mark.parametrize("name", [*CHECKED, *UNCHECKED])
def test_a_damaged_export_is_refused_by_name_or_read_by_the_rules(tmp_path: Path, name: str) -> None:
    content = (CHECKED | UNCHECKED)[name]()
    num_refused = 0
    for number in range(NUM_CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        (tmp_path / name).write_bytes(damaged(content, Random(f"{name} {number}")))
        try:
            report = read_posts(
                [tmp_path / name],
                folder,
                PostsSettings(max_rejected_share=0.999, tag_separator=" ", null_words=()),
                ONE_THREAD,
            )
        except ExportError as error:
            problem = str(error)
            assert name in problem
            assert "\n" not in problem
            assert list(folder.iterdir()) == []
            num_refused += 1
            continue
        assert report.reconciles
        assert len(read_rows(folder)) == report.num_kept
        assert len(read_rejects(folder)) == report.num_rejected + report.num_duplicate
        assert name in UNCHECKED or read_rows(folder) == ROWS
    assert num_refused > (NUM_CASES // 2 if name in CHECKED else 0)


@pytest.mark.parametrize("name", [name for name in CHECKED | UNCHECKED if name != "export.jsonl"])
def test_every_cut_of_a_packed_export_is_refused(tmp_path: Path, name: str) -> None:
    content = (CHECKED | UNCHECKED)[name]()
    for length in {4, 5, *range(6, len(content), len(content) // 40), len(content) - 1}:
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(ExportError, match=name):
            read_posts([tmp_path / name], tmp_path, PostsSettings(), ONE_THREAD)
