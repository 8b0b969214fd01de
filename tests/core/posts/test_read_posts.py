"""Exports to posts: what is kept, what is set aside, and which errors are told."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.export_files import expand_export
from booru_embed_core.posts.parquet_parts import POSTS_SCHEMA
from booru_embed_core.posts.read_file import DUPLICATE_REASON
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.posts.readers import lines as lines_module
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError, TooManyRejectsError, line_problem
from booru_embed_core.schema import FLAG_COLUMNS, POST_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings
from tests.core.export_helpers import (
    ANY_FORM,
    HOSTILE_TAGS,
    LITERAL,
    LITERAL_SETTINGS,
    ONE_THREAD,
    Walked,
    csv_bytes,
    hostile_rows,
    kept,
    read_rejects,
    read_rows,
    row,
)

ReadExport = Callable[..., tuple[PostsReport, Path]]


def test_the_sample_is_read_whole(sample: Walked, sample_rows: list[dict[str, str]]) -> None:
    assert sample.report.reconciles
    assert (sample.report.num_read, sample.report.num_kept) == (54_763, 54_763)
    typed = [{**post, "id": int(post["id"]), "score": int(post["score"])} for post in sample_rows]
    assert read_rows(sample.posts_dir) == typed
    assert pq.read_schema(sample.posts_dir / "part-00000.parquet").equals(POSTS_SCHEMA)
    assert read_rejects(sample.posts_dir) == []


def test_two_threads_and_a_second_run_give_the_same_bytes(sample: Walked, tmp_path: Path) -> None:
    read_posts([sample.export], tmp_path, LITERAL_SETTINGS, DuckdbSettings(threads=2, memory_limit="600MB"))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["manifest.json", "part-00000.parquet", "rejects.parquet", "report.json"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (sample.posts_dir / name).read_bytes(), name


def test_hostile_tags_survive(read_export: ReadExport) -> None:
    rows = [row(number, f"{tag} plain", artist=tag) for number, tag in enumerate(HOSTILE_TAGS)]
    report, posts_dir = read_export(csv_bytes(rows))
    assert report.num_kept == len(HOSTILE_TAGS)
    assert read_rows(posts_dir) == rows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=hostile_rows(), newline=st.sampled_from(["\n", "\r\n"]), columns=st.permutations(POST_COLUMNS))
def test_any_export_in_any_order_of_columns_comes_back(
    read_export: ReadExport, rows: list[dict[str, object]], newline: str, columns: list[str]
) -> None:
    report, posts_dir = read_export(csv_bytes(rows, columns, newline))
    assert report.num_rejected == 0
    assert read_rows(posts_dir) == kept(rows)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(forms=st.lists(ANY_FORM, min_size=1, max_size=8), newline=st.sampled_from([b"\n", b"\r\n"]))
def test_a_malformed_line_costs_itself_alone(read_export: ReadExport, forms: list[bytes], newline: bytes) -> None:
    lines = [b"%d,q,-3,%s" % (number, form) for number, form in enumerate(forms)]
    lines.append(b"99,s,0,a,b,c,d,e")
    report, posts_dir = read_export(newline.join([",".join(POST_COLUMNS).encode(), *lines, b""]))
    # Of two carriage returns the last one belongs to the line's end, the other one stands inside the line.
    bare = [line.removesuffix(b"\r") if newline == b"\n" else line for line in lines]
    texts = [line.decode() for line in bare if line_problem(line, POST_COLUMNS, conventions=LITERAL) is None]
    fit = [dict(zip(POST_COLUMNS, next(csv.reader([text])), strict=True)) for text in texts]
    assert [{name: str(value) for name, value in post.items()} for post in read_rows(posts_dir)] == kept(fit)
    assert report.reconciles
    assert (report.num_read, report.num_rejected) == (len(lines), len(lines) - len(fit))
    assert len(read_rejects(posts_dir)) == report.num_rejected


def test_quoted_empty_fields_stay_empty_strings(read_export: ReadExport) -> None:
    _, posts_dir = read_export(",".join(POST_COLUMNS).encode() + b'\n1,s,0,"","",,"",')
    assert read_rows(posts_dir) == [row(1, "")]


def test_a_byte_order_mark_and_blank_lines_are_no_records(read_export: ReadExport) -> None:
    content = b"\xef\xbb\xbf" + csv_bytes([row(1), row(2)]).replace(b"\n2,", b"\n\n\n2,") + b"\n"
    report, posts_dir = read_export(content)
    assert (report.num_read, report.num_kept) == (2, 2)
    assert read_rows(posts_dir) == [row(1), row(2)]


def test_each_invalid_line_is_set_aside_with_line_reason_and_raw_text(read_export: ReadExport) -> None:
    lines = csv_bytes([row(number) for number in range(1, 13)]).split(b"\n")
    invalid = {
        2: (b"one,s,0,a,b,c,d,e", "id 'one'"),
        4: (b"3,x,0,a,b,c,d,e", "rating 'x'"),
        5: (b"4,s,0.5,a,b,c,d,e", "score '0.5'"),
        7: (b"6,s,0,a,b", "5 fields instead of 8"),
        8: (b'7,s,0,"a,b,c,d,e', "broken quotes"),
        10: (b"9,s,0,a,b,c,d,e,f", "9 fields instead of 8"),
        13: (b"12,s,0,\xe3\x81,b,c,d,e", "not UTF-8"),
    }
    for line, (raw, _) in invalid.items():
        lines[line - 1] = raw
    report, posts_dir = read_export(b"\n".join(lines))
    assert report.reconciles
    assert (report.num_read, report.num_kept, report.num_rejected) == (12, 5, 7)
    assert [post["id"] for post in read_rows(posts_dir)] == [2, 5, 8, 10, 11]
    rejects = read_rejects(posts_dir)
    assert [reject["line"] for reject in rejects] == sorted(invalid)
    for reject in rejects:
        raw, reason = invalid[int(str(reject["line"]))]
        assert str(reject["reason"]).startswith(reason)
        assert reject["raw"] == raw.decode("utf-8", "backslashreplace")
        assert reject["file"] == "export-0.csv"


def test_invalid_values_alone_need_no_copy_and_have_their_lines(read_export: ReadExport) -> None:
    content = csv_bytes([row(1), row("?"), row(2, rating="safe"), row(3), row(4, score="")], newline="\r\n")
    report, posts_dir = read_export(content)
    assert (report.num_read, report.num_kept, report.num_rejected) == (5, 2, 3)
    assert [(reject["line"], reject["raw"]) for reject in read_rejects(posts_dir)] == [
        (3, "?,s,0,1girl,,,,"),
        (4, "2,safe,0,1girl,,,,"),
        (6, "4,s,,1girl,,,,"),
    ]


def test_a_stray_quote_costs_its_own_line_only(read_export: ReadExport) -> None:
    """The second broken line would close the quote of the first for a reader that lets fields run over lines."""
    content = csv_bytes([row(1), row(2), row(3), row(4)]).replace(b"2,s,0,1girl", b'2,s,0,"1girl')
    report, posts_dir = read_export(content.replace(b"4,s,0,1girl", b'4,s,0,a" b'))
    assert [post["id"] for post in read_rows(posts_dir)] == [1, 3]
    assert [reject["line"] for reject in read_rejects(posts_dir)] == [3, 5]
    assert report.reconciles


def test_the_first_of_duplicates_is_kept_also_over_files(tmp_path: Path) -> None:
    first, second, out_dir = tmp_path / "a" / "x.csv", tmp_path / "b" / "x.csv", tmp_path / "posts"
    for folder in (first.parent, second.parent, out_dir):
        folder.mkdir()
    first.write_bytes(csv_bytes([row(5, "first"), row(7), row(5, "again"), row("bad")]))
    second.write_bytes(csv_bytes([row(7, "other_file"), row(8), row(8)]))
    report = read_posts([first, second], out_dir, PostsSettings(max_rejected_share=0.5), ONE_THREAD)
    assert read_rows(out_dir) == [row(5, "first"), row(7), row(8)]
    assert [(reject["file"], reject["line"], reject["raw"]) for reject in read_rejects(out_dir)] == [
        ("a/x.csv", 4, "5,s,0,again,,,,"),
        ("a/x.csv", 5, "bad,s,0,1girl,,,,"),
        ("b/x.csv", 2, "7,s,0,other_file,,,,"),
        ("b/x.csv", 4, "8,s,0,1girl,,,,"),
    ]
    assert [reject["reason"] == DUPLICATE_REASON for reject in read_rejects(out_dir)] == [True, False, True, True]
    assert report.reconciles
    assert (report.num_read, report.num_kept, report.num_duplicate, report.num_rejected) == (7, 3, 3, 1)
    assert [(file.file, file.num_read, file.num_kept) for file in report.files] == [
        ("a/x.csv", 4, 2),
        ("b/x.csv", 3, 1),
    ]


def test_too_many_rejects_fail_with_the_first_five_reasons_and_leave_nothing(tmp_path: Path) -> None:
    file, out_dir = tmp_path / "export.csv", tmp_path / "posts"
    out_dir.mkdir()
    file.write_bytes(csv_bytes([*(row(number) for number in range(94)), *(row(f"bad{n}") for n in range(6))]))
    wanted = r"6 of 100 records \(6\.00%\).*max_rejected_share = 0\.05.*line 96: id 'bad0'.*line 100: id 'bad4' is not"
    with pytest.raises(TooManyRejectsError, match=wanted) as caught:
        read_posts([file], out_dir, PostsSettings(max_rejected_share=0.05), ONE_THREAD)
    assert "bad5" not in str(caught.value)
    assert list(out_dir.iterdir()) == []
    assert read_posts([file], out_dir, PostsSettings(max_rejected_share=0.06), ONE_THREAD).num_rejected == 6


def test_a_wrong_second_file_leaves_nothing(tmp_path: Path) -> None:
    good, wrong, out_dir = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "posts"
    out_dir.mkdir()
    good.write_bytes(csv_bytes([row(1)]))
    wrong.write_bytes(b"id,tags\n1,a\n")
    with pytest.raises(
        ExportError, match=r"b\.csv: wrong columns: found 'id,tags', wanted id,rating,.*; missing: rating,score;"
    ):
        read_posts([good, wrong], out_dir, PostsSettings(), ONE_THREAD)
    assert list(out_dir.iterdir()) == []


def test_an_export_of_headers_alone_is_an_error(tmp_path: Path) -> None:
    file, out_dir = tmp_path / "export.csv.gz", tmp_path / "posts"
    out_dir.mkdir()
    file.write_bytes(gzip.compress(csv_bytes([])))
    with pytest.raises(ExportError, match=r"export\.csv\.gz: the export holds no post"):
        read_posts([file], out_dir, PostsSettings(), ONE_THREAD)


def test_names_with_glob_characters_and_quotes_are_read_literally(tmp_path: Path) -> None:
    folder = tmp_path / "it's [1]*"
    folder.mkdir()
    (folder / "a?.csv").write_bytes(csv_bytes([row(1)]))
    (folder / "ab.csv").write_bytes(csv_bytes([row(2)]))
    out_dir = folder / "posts"
    out_dir.mkdir()
    report = read_posts([folder / "a?.csv"], out_dir, PostsSettings(), ONE_THREAD)
    assert report.num_read == 1
    assert read_rows(out_dir) == [row(1)]


def flagged_rows() -> list[dict[str, object]]:
    """Posts 1 to 8, of which 2, 4 and 6 have a flag and 7 a flag that is none."""
    flags = {2: ("true", "false", "false"), 4: ("f", "1", "0"), 6: ("FALSE", "False", "t"), 7: ("true", "nay", "")}
    none = ("false", "false", "false")
    return [row(n) | dict(zip(FLAG_COLUMNS, flags.get(n, none), strict=True)) for n in range(1, 9)]


def as_csv(rows: list[dict[str, object]]) -> bytes:
    return csv_bytes(rows, list(rows[0]))


def as_json_lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(post) + "\n" for post in rows).encode()


def as_parquet(rows: list[dict[str, object]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


EVERY_KIND = pytest.mark.parametrize("write", [as_csv, as_json_lines, as_parquet])
Write = Callable[[list[dict[str, object]]], bytes]


@EVERY_KIND
def test_deleted_banned_and_flagged_posts_are_filtered(read_export: ReadExport, write: Write) -> None:
    report, posts_dir = read_export(write(flagged_rows()))
    assert [post["id"] for post in read_rows(posts_dir)] == [1, 3, 5, 8]
    assert report.reconciles
    assert (report.num_read, report.num_kept, report.num_rejected, report.num_filtered) == (8, 4, 1, 3)
    assert [reject["reason"] for reject in read_rejects(posts_dir)] == [
        "is_banned 'nay' is neither true nor false; set [posts.true_values] is_banned"
    ]


def sparse_rows() -> list[dict[str, object]]:
    """Posts 1 to 60, every fifth deleted and post 7 banned; other flags are null."""
    return [row(n) | {"is_deleted": n % 5 == 0 or None, "is_banned": n == 7 or None} for n in range(1, 61)]


@EVERY_KIND
def test_a_flag_without_a_value_is_false(read_export: ReadExport, write: Write) -> None:
    report, posts_dir = read_export(write(sparse_rows()))
    assert [post["id"] for post in read_rows(posts_dir)] == [n for n in range(1, 61) if n % 5 and n != 7]
    assert (report.num_read, report.num_kept, report.num_filtered, report.num_rejected) == (60, 47, 13, 0)
    assert report.reconciles


@pytest.mark.parametrize("limit", [None, 60])
def test_an_empty_flag_of_text_is_false_in_quotes_or_not(read_export: ReadExport, limit: int | None) -> None:
    for delimiter, empty in itertools.product((",", "\t"), ("", '""')):
        rows = [row(1), row(2) | {"is_deleted": "true"}, row(3)]
        content = csv_bytes([{"is_deleted": "EMPTY"} | one for one in rows], list(rows[1]), delimiter=delimiter)
        report, posts_dir = read_export(content.replace(b"EMPTY", empty.encode()), limit_posts=limit)
        assert [post["id"] for post in read_rows(posts_dir)] == [1, 3]
        assert (report.num_kept, report.num_filtered, report.num_rejected) == (2, 1, 0)


@pytest.mark.parametrize("absent", [{}, {"is_deleted": None}, {"is_deleted": ""}, {"is_deleted": False}])
def test_flags_of_json_lines_are_looked_for_in_every_record(read_export: ReadExport, absent: dict[str, object]) -> None:
    rows = [row(n) | (absent if n % 5 else {"is_deleted": True}) for n in range(1, 201)]
    rows[11]["is_flagged"], rows[12]["is_banned"] = "maybe", {"is": True}
    report, posts_dir = read_export(as_json_lines(rows))
    assert [post["id"] for post in read_rows(posts_dir)] == [n for n in range(1, 201) if n % 5 and n not in (12, 13)]
    assert (report.num_read, report.num_kept, report.num_filtered, report.num_rejected) == (200, 158, 40, 2)
    assert [reject["reason"] for reject in read_rejects(posts_dir)] == [
        "is_flagged 'maybe' is neither true nor false; set [posts.true_values] is_flagged",
        "is_banned '{\"is\": true}' is neither true nor false; set [posts.true_values] is_banned",
    ]


def test_the_key_of_a_flag_may_be_escaped(read_export: ReadExport) -> None:
    content = as_json_lines([row(1) | {"is_deleted": True}, row(2) | {"a/b": True}, row(3)])
    content = content.replace(b"is_deleted", b"is_\\u0064eleted").replace(b"a/b", b"a\\/b")
    _, posts_dir = read_export(content, columns={"is_banned": "a/b"})
    assert read_rows(posts_dir) == [row(3)]


def test_flags_are_looked_for_in_every_block(read_export: ReadExport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", 300)
    rows = [row(n) | ({} if n % 4 else {"is_deleted": True}) for n in range(1, 41)]
    report, posts_dir = read_export(as_json_lines([*rows, row(41) | {"is_flagged": "nay"}]))
    assert [post["id"] for post in read_rows(posts_dir)] == [n for n in range(1, 41) if n % 4]
    assert (report.num_filtered, report.num_rejected) == (10, 1)


def test_a_flag_that_the_settings_name_may_be_sparse_too(read_export: ReadExport) -> None:
    rows: list[dict[str, object]] = [row(1), row(2) | {"gone": True}, row(3) | {"is_deleted": True}]
    _, posts_dir = read_export(as_json_lines(rows), columns={"is_deleted": "gone"})
    assert read_rows(posts_dir) == [row(1), row(3)]
    for write in (as_csv, as_parquet):  # which have one set of columns
        with pytest.raises(ExportError, match="missing: gone; export these columns or set"):
            read_export(write([row(1)]), columns={"is_deleted": "gone"})


def test_a_key_that_the_settings_give_to_another_column_is_no_flag(read_export: ReadExport) -> None:
    rows = [{**row(n), "is_flagged": n} for n in (1, 2)]
    for post in rows:
        del post["score"]
    _, posts_dir = read_export(as_json_lines(rows), columns={"score": "is_flagged"})
    assert read_rows(posts_dir) == [row(1, score=1), row(2, score=2)]


def test_a_parquet_column_of_nulls_is_no_flag_and_dictionaries_are_read(read_export: ReadExport) -> None:
    table = pa.Table.from_pylist([row(1), row(2), row(3)])
    flags = pa.array([None, "t", "f"]).dictionary_encode()
    table = table.append_column("is_deleted", flags).append_column("is_banned", pa.nulls(3))
    sink = io.BytesIO()
    pq.write_table(table.append_column("is_flagged", pa.array([None, 0, 1], pa.int8())), sink)
    report, posts_dir = read_export(sink.getvalue())
    assert read_rows(posts_dir) == [row(1)]
    assert (report.num_filtered, report.num_rejected) == (2, 0)


def test_flags_that_are_booleans_are_read_too(read_export: ReadExport) -> None:
    rows = [row(1) | {"is_deleted": True}, row(2) | {"is_deleted": False}]
    for write in (as_json_lines, as_parquet):
        _, posts_dir = read_export(write(rows))
        assert read_rows(posts_dir) == [row(2)]


@EVERY_KIND
def test_ratings_and_scores_are_chosen_and_a_filtered_post_is_not_seen(read_export: ReadExport, write: Write) -> None:
    rows = [row(1, score=5), row(2, rating="g", score=4), row(3, rating="e", score=9), row(2, rating="g", score=5)]
    report, posts_dir = read_export(write([*rows, rows[0]]), ratings=["g", "s"], min_score=5)
    assert read_rows(posts_dir) == [rows[0], rows[3]]
    assert report.reconciles
    assert (report.num_kept, report.num_duplicate, report.num_filtered) == (2, 1, 2)


@EVERY_KIND
@pytest.mark.parametrize("threads", [1, 2])
def test_reading_stops_at_the_post_that_fills_the_limit(read_export: ReadExport, write: Write, threads: int) -> None:
    rows = [row("?"), row(1), row(1), row(2, rating="e"), row(3), row("?"), row(3), row(4)]
    rows = [{**post, "id": str(post["id"])} for post in rows]
    report, posts_dir = read_export(write(rows), limit_posts=2, ratings=["s"], threads=threads)
    assert [post["id"] for post in read_rows(posts_dir)] == [1, 3]
    assert report.reconciles
    assert (report.num_read, report.num_kept, report.num_duplicate, report.num_rejected) == (5, 2, 1, 1)
    assert report.num_filtered == 1
    assert len(read_rejects(posts_dir)) == 2


def test_malformed_lines_behind_the_limit_are_not_read(read_export: ReadExport) -> None:
    content = csv_bytes([row(1), row(2), row(3), row(4)]).replace(b"2,s,", b"2,").replace(b"4,s,", b"4,")
    report, posts_dir = read_export(content, limit_posts=2)
    assert [post["id"] for post in read_rows(posts_dir)] == [1, 3]
    assert (report.num_read, report.num_rejected, report.reconciles) == (3, 1, True)


def test_files_behind_the_limit_are_not_read(tmp_path: Path) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    files[0].write_bytes(csv_bytes([row(1), row(2)]))
    files[1].write_bytes(b"no export")
    out_dir = tmp_path / "posts"
    out_dir.mkdir()
    report = read_posts(files, out_dir, PostsSettings(limit_posts=2), ONE_THREAD)
    assert [counts.file for counts in report.files] == ["a.csv"]


def test_files_of_several_kinds_are_one_export(tmp_path: Path) -> None:
    folder, out_dir = tmp_path / "it's [1]", tmp_path / "posts"
    (folder / "deep").mkdir(parents=True)
    out_dir.mkdir()
    (folder / "a.tsv.gz").write_bytes(gzip.compress(csv_bytes([row(1), row(2)], delimiter="\t")))
    (folder / "b.json").write_bytes(as_json_lines([row(2), row(3)]))
    (folder / "deep" / "c.parquet").write_bytes(as_parquet([row(3), row(4)]))
    (folder / "README.md").write_text("not an export", encoding="utf-8")
    files = expand_export([folder.name], tmp_path)
    assert [file.name for file in files] == ["a.tsv.gz", "b.json", "c.parquet"]
    report = read_posts(files, out_dir, PostsSettings(), ONE_THREAD)
    assert read_rows(out_dir) == [row(1), row(2), row(3), row(4)]
    assert [(reject["file"], reject["line"]) for reject in read_rejects(out_dir)] == [
        ("b.json", 1),
        ("deep/c.parquet", 1),
    ]
    assert report.reconciles
