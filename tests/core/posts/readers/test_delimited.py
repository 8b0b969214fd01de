"""CSV and TSV: the same posts however they are separated and packed."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import POST_COLUMNS
from tests.core.export_helpers import HOSTILE_TAGS, csv_bytes, hostile_rows, kept, read_rejects, read_rows, row

ReadExport = Callable[..., tuple[PostsReport, Path]]


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=hostile_rows(), newline=st.sampled_from(["\n", "\r\n"]), pack=st.sampled_from([bytes, gzip.compress, zstd]))
def test_any_tsv_comes_back(
    read_export: ReadExport, rows: list[dict[str, object]], newline: str, pack: Callable[[bytes], bytes]
) -> None:
    report, posts_dir = read_export(pack(csv_bytes(rows, newline=newline, delimiter="\t")))
    assert (report.num_read, report.num_rejected) == (len(rows), 0)
    assert read_rows(posts_dir) == kept(rows)


def test_further_columns_are_ignored_whatever_their_names(read_export: ReadExport) -> None:
    rows = [row(number, tag) for number, tag in enumerate(HOSTILE_TAGS)]
    extra = {"it's": "x,y", 'a "quoted" name': '"', "ID": "7", "": ""}
    _, posts_dir = read_export(csv_bytes([post | extra for post in rows], [*extra, *POST_COLUMNS]))
    assert read_rows(posts_dir) == rows


def test_a_malformed_line_of_a_tsv_costs_itself_alone(read_export: ReadExport) -> None:
    content = csv_bytes([row(1), row(2), row(3, "a,b c"), row(4)], delimiter="\t")
    report, posts_dir = read_export(content.replace(b"2\ts\t0\t1girl", b"2\ts\t0\t1gi\trl"))
    assert [post["id"] for post in read_rows(posts_dir)] == [1, 3, 4]
    assert [(reject["line"], reject["reason"]) for reject in read_rejects(posts_dir)] == [(3, "9 fields instead of 8")]
    assert report.reconciles


def test_several_zstd_frames_are_one_file_also_with_a_malformed_line(read_export: ReadExport) -> None:
    content = csv_bytes([row(1), row("?"), row(3)])
    _, posts_dir = read_export(zstd(content) + zstd(b"4,s,0,a\n") + zstd(b"5,s,0,a,b,c,d,e\n"))
    assert [post["id"] for post in read_rows(posts_dir)] == [1, 3, 5]
    assert [reject["line"] for reject in read_rejects(posts_dir)] == [3, 5]


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b[:8] + b"\xff" * 10 + b[18:]])
def test_a_broken_zstd_is_an_error_that_names_the_file(
    read_export: ReadExport, damage: Callable[[bytes], bytes]
) -> None:
    content = csv_bytes([row(number, f"tag_{number * 7919}") for number in range(500)])
    with pytest.raises(ExportError, match=r"export-0\.csv: the zstd stream is broken .*fetch the file again"):
        read_export(damage(zstd(content)))


@pytest.mark.parametrize("delimiter", [";", "|"])
@pytest.mark.parametrize("limit_posts", [None, 100])
def test_other_delimiters_are_told_by_the_header(
    read_export: ReadExport, delimiter: str, limit_posts: int | None
) -> None:
    rows = [row(number, tag) for number, tag in enumerate(("a;b", "a|b", "a,b", 'a"b', "solo"))]
    _, posts_dir = read_export(csv_bytes(rows, delimiter=delimiter), limit_posts=limit_posts)
    assert read_rows(posts_dir) == rows


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("limit_posts", [None, 100])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_utf16_is_read_by_its_byte_order_mark(
    read_export: ReadExport, encoding: str, limit_posts: int | None, pack: Callable[[bytes], bytes]
) -> None:
    rows = [row(number, tag) for number, tag in enumerate(("caf\u00e9", "\U0001f469", "solo"))]
    mark = "" if encoding == "utf-16" else "\ufeff"
    content = (mark + csv_bytes([*rows, row("?")], delimiter="\t", newline="\r\n").decode()).encode(encoding)
    _, posts_dir = read_export(pack(content), limit_posts=limit_posts)
    assert read_rows(posts_dir) == rows
    assert [(reject["line"], str(reject["raw"])[:2]) for reject in read_rejects(posts_dir)] == [(5, "?\t")]


def test_utf16_that_is_cut_is_an_error_that_names_the_file(read_export: ReadExport) -> None:
    with pytest.raises(ExportError, match=r"export-0\.csv: begins as UTF-16, but is broken .*save it as UTF-8"):
        read_export(csv_bytes([row(1)]).decode().encode("utf-16")[:-1])


def test_latin_1_is_named_with_the_command_that_converts_it(read_export: ReadExport) -> None:
    content = csv_bytes([row(1, "caf\u00e9"), row(2)]).decode().encode("latin-1")
    _, posts_dir = read_export(content)
    (reject,) = read_rejects(posts_dir)
    assert "0xe9 at position" in str(reject["reason"])
    assert str(reject["reason"]).endswith("iconv -f WINDOWS-1252 -t UTF-8")
    assert [post["id"] for post in read_rows(posts_dir)] == [2]
