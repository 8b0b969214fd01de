"""Small exports written by hand, and one export through the whole data path."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from booru_embed_core.posts.arrow import read_parquet
from booru_embed_core.posts.checksums import write_checksums
from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.parquet_parts import part_files
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.schema import CATEGORIES, POST_COLUMNS, RATINGS, TAG_COLUMNS, Category, tag_column
from booru_embed_core.settings import DuckdbSettings, PostsSettings, TokensSettings, VocabSettings
from booru_embed_core.tags.build import build_vocab, save_vocab
from booru_embed_core.tags.frequency import FREQUENCY_SCHEMA, FrequencySummary, count_tags, frequency_file
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.encode import EncodeReport, encode_posts
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile

ONE_THREAD = DuckdbSettings(threads=1)
KEEP_ALL = VocabSettings(keep_percentile=100, min_count=1)

HOSTILE_TAGS = (
    '"', '""', '"quoted"', 'say_"hi"', "a,b", ",", ",,", '",', "\\N", "\\", "\\(", "null", "NULL", "nan", "None",
    "#comment", "'", "--", "|", "007", "1e5",
    "ideographic\u3000space", "nbsp\u00a0inside", "nel\u0085inside", "zero\u200bwidth",
    "\ufeffbom", "tab\tinside", "nul\0inside", "rtl\u202eoverride", "caf\u00e9", "cafe\u0301",
    "\U0001f469\u200d\U0001f680",
    "x" * 255, "\u9577" * 85, "<unk>", "artist:1girl", "general:", ":", "_", "A", "a",
)  # fmt: skip

LITERAL_SETTINGS = PostsSettings(max_rejected_share=0.999, tag_separator=" ", null_words=())
LITERAL = Conventions(allow_commas=True)
"""Spaces separate tags, which may hold commas."""

PATTERN_LIKE = ("a[b]", "[!x]", "[a-c]", "a[", "a]b", "a*", "**", "a?b", "it's", "{a,b}", "[*]?{x}'", "id=7", "0=x")
"""Names of files and folders that DuckDB or Python may take for patterns, quotes or columns."""

ANY_TAG = st.sampled_from(HOSTILE_TAGS) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=" \r\n"), min_size=1, max_size=6
)


@dataclass(frozen=True)
class Walked:
    """One export after the whole data path."""

    export: Path
    posts_dir: Path
    freq_dir: Path
    vocab_dir: Path
    packed_path: Path
    report: PostsReport
    summaries: dict[Category, FrequencySummary]
    vocab: Vocab
    encode_report: EncodeReport

    @property
    def packed(self) -> PackedFile:
        return PackedFile.open(self.packed_path, self.vocab.hash)


def walk(
    export: Path,
    work: Path,
    vocab_settings: VocabSettings = KEEP_ALL,
    duckdb_settings: DuckdbSettings = ONE_THREAD,
) -> Walked:
    """Export to packed file below `work`, a new folder."""
    posts_dir, freq_dir, vocab_dir, packed_dir = (work / name for name in ("posts", "freq", "vocab", "packed"))
    for folder in (posts_dir, freq_dir, vocab_dir, packed_dir):
        folder.mkdir(parents=True)
    report = read_posts([export], posts_dir, LITERAL_SETTINGS, duckdb_settings)
    summaries = count_tags(posts_dir, freq_dir, duckdb_settings)
    vocab = build_vocab(freq_dir, vocab_settings)
    save_vocab(vocab, vocab_dir)
    encoded = encode_posts(posts_dir, vocab, packed_dir, TokensSettings())
    packed_path = packed_dir / PACKED_FILE
    return Walked(export, posts_dir, freq_dir, vocab_dir, packed_path, report, summaries, vocab, encoded)


def write_frequencies(freq_dir: Path, counts: Mapping[Category, Sequence[tuple[str, int]]]) -> None:
    """Tables as `count_tags` writes them, of tags with their counts, descending."""
    for category in CATEGORIES:
        rows = [{"tag": tag, "count": count, "cumulative_share": 0.0} for tag, count in counts.get(category, [])]
        pq.write_table(pa.Table.from_pylist(rows, schema=FREQUENCY_SCHEMA), frequency_file(freq_dir, category))
    write_checksums(freq_dir)


def row(post_id: object, general: str = "1girl", **values: object) -> dict[str, object]:
    """One post's values by column; `values` by the column's short name, such as ``artist``."""
    fields = {tag_column(category): str(values.pop(category.value, "")) for category in CATEGORIES}
    fields[tag_column(Category.GENERAL)] = general
    return {"id": post_id, "rating": "s", "score": 0, **fields, **values}


def csv_bytes(
    rows: Iterable[Mapping[str, object]],
    columns: Sequence[str] = POST_COLUMNS,
    newline: str = "\n",
    delimiter: str = ",",
) -> bytes:
    """An export's bytes, written by Python's csv module."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator=newline, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def write_parquet(table: pa.Table, path: Path, **options: Any) -> None:
    """Writes `table`; skips the test where this release of pyarrow cannot write one of its types."""
    try:
        pq.write_table(table, path, **options)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(str(error))


def read_rows(posts_dir: Path) -> list[dict[str, object]]:
    """All posts of a folder, in order, with their tags as the export has them."""
    rows = [post for file in part_files(posts_dir) for post in read_parquet(file).to_pylist()]
    return [as_exported(post) for post in rows]


def as_exported(post: Mapping[str, Any]) -> dict[str, object]:
    """`post`, a row of the posts table, with a string of tags for each list."""
    fields = {tag_column(category): " ".join(post[category]) for category in CATEGORIES}
    return {"id": post["id"], "rating": post["rating"], "score": post["score"], **fields}


def record_fields(post: Mapping[str, object]) -> dict[Category, str]:
    """The tag fields of `post`, a mapping of an export's columns."""
    return {category: str(post[tag_column(category)]) for category in CATEGORIES}


def kept(rows: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """`rows` as the posts table holds them: no tag empty, none twice in a field."""
    fields = set(TAG_COLUMNS)
    return [
        {
            name: " ".join(dict.fromkeys(filter(None, str(value).split(" ")))) if name in fields else value
            for name, value in post.items()
        }
        for post in rows
    ]


def read_rejects(posts_dir: Path) -> list[dict[str, object]]:
    return read_parquet(posts_dir / "rejects.parquet").to_pylist()


ANY_FORM = st.lists(
    st.sampled_from(
        [b",", b'"', b'""', b"a", b",a,b,c,d,e", b"a,b,c,d,e", b',"",b', b'"a"', b" ", b"\r", b"\xff", b"\xc3\xa9"]
    ),
    max_size=12,
).map(b"".join)
"""What may stand behind ``id,rating,score,`` in a line, mostly not as it should."""


@st.composite
def hostile_rows(draw: st.DrawFn) -> list[dict[str, object]]:
    """Posts with different ids and tags that try to break out of their field."""
    ids = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8, unique=True))
    field = st.lists(ANY_TAG, max_size=5).map(" ".join)
    return [
        row(
            post_id,
            draw(field),
            rating=draw(st.sampled_from(RATINGS)),
            score=draw(st.integers(-(2**31), 2**31 - 1)),
            **{category.value: draw(field) for category in CATEGORIES[1:]},
        )
        for post_id in ids
    ]
