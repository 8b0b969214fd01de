"""An export read chunk by chunk is the same as from end to end, and is read no further than the limit."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.readers import chunked_csv
from booru_embed_core.posts.readers import lines as lines_module
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError
from tests.core.export_helpers import ANY_FORM, csv_bytes, read_rejects, read_rows, row

ReadExport = Callable[..., tuple[PostsReport, Path]]
HEADER = csv_bytes([]).rstrip(b"\n")
GOOD = csv_bytes([row(number, f"tag_{number}") for number in range(40)]).split(b"\n")[1:-1]
EVERY = 10**9


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(chunked_csv, "_FIRST_CHUNK_BYTES", 100)
    monkeypatch.setattr(chunked_csv, "_LAST_CHUNK_BYTES", 300)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.sampled_from(GOOD) | ANY_FORM.map(b"9,s,0,".__add__) | st.just(b""), min_size=1, max_size=12),
    start=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    end=st.sampled_from([b"", b"\n"]),
)
def test_all_chunks_together_are_the_file(
    read_export: ReadExport, small_chunks: None, lines: list[bytes], start: bytes, newline: bytes, end: bytes
) -> None:
    content = start + newline.join([HEADER, *GOOD[:1], *lines]) + end
    whole, whole_dir = read_export(content)
    report, posts_dir = read_export(content, limit_posts=EVERY)
    names = ("num_read", "num_kept", "num_duplicate", "num_rejected")
    assert [getattr(report, name) for name in names] == [getattr(whole, name) for name in names]
    assert read_rows(posts_dir) == read_rows(whole_dir)
    kept = ("line", "reason", "raw")
    assert [[reject[name] for name in kept] for reject in read_rejects(posts_dir)] == [
        [reject[name] for name in kept] for reject in read_rejects(whole_dir)
    ]


def test_what_stands_behind_the_limit_is_not_looked_at(
    read_export: ReadExport, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", 1 << 16)
    packed = gzip.compress(b"\n".join([HEADER, *GOOD, b"\n" * 5_000_000]), compresslevel=0)[:-400]
    with pytest.raises(ExportError, match="the gzip stream is broken"):
        read_export(packed)
    report, posts_dir = read_export(packed, limit_posts=3)
    assert (report.num_read, report.num_kept) == (3, 3)
    assert [post["id"] for post in read_rows(posts_dir)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n1,s", "is empty"), (b"id,rating\n1,s", r"export-0\.csv: wrong columns: .*missing: score")],
)
def test_a_wrong_header_is_told_with_the_files_name(read_export: ReadExport, content: bytes, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        read_export(content, limit_posts=1)


def test_a_header_alone_holds_no_post(read_export: ReadExport) -> None:
    with pytest.raises(ExportError, match="the export holds no post"):
        read_export(HEADER + b"\n", limit_posts=1)
