"""JSON lines: any posts come back, a broken line costs itself, and what is missing is said."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.readers import lines as lines_module
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import MAX_LINE_BYTES, ExportError
from tests.core.export_helpers import HOSTILE_TAGS, hostile_rows, kept, read_rejects, read_rows, row

ReadExport = Callable[..., tuple[PostsReport, Path]]


def json_lines(rows: list[dict[str, object]], newline: str = "\n", *, ascii_only: bool = False) -> bytes:
    return "".join(json.dumps(post, ensure_ascii=ascii_only) + newline for post in rows).encode()


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=hostile_rows(),
    newline=st.sampled_from(["\n", "\r\n", "\n\n"]),
    ascii_only=st.booleans(),
    pack=st.sampled_from([bytes, gzip.compress]),
    block_bytes=st.integers(1, 500),
)
def test_any_posts_come_back(
    read_export: ReadExport,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[dict[str, object]],
    newline: str,
    ascii_only: bool,
    pack: Callable[[bytes], bytes],
    block_bytes: int,
) -> None:
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", block_bytes)
    report, posts_dir = read_export(pack(json_lines(rows, newline, ascii_only=ascii_only)))
    assert (report.num_read, report.num_rejected) == (len(rows), 0)
    assert read_rows(posts_dir) == kept(rows)


def test_hostile_tags_keys_in_any_order_and_further_keys(read_export: ReadExport) -> None:
    rows = [row(number, f"{tag} plain", artist=tag) for number, tag in enumerate(HOSTILE_TAGS)]
    dumped = [{"tags": [1], **dict(reversed(post.items())), "media_asset": {"id": 3}} for post in rows]
    _, posts_dir = read_export(b"\xef\xbb\xbf" + json_lines(dumped))
    assert read_rows(posts_dir) == kept(rows)


def test_whole_numbers_may_stand_in_quotes_as_bigquery_writes_them(read_export: ReadExport) -> None:
    _, posts_dir = read_export(json_lines([row("5", score="-2")]))
    assert read_rows(posts_dir) == [row(5, score=-2)]


def test_each_invalid_line_is_set_aside_with_line_reason_and_raw_text(read_export: ReadExport) -> None:
    missing = row(1)
    del missing["score"]
    invalid = {
        1: (b"{", "not JSON"),
        3: (b"[1]", "not a JSON object"),
        5: (json_lines([row(1.5)])[:-1], "id '1.5' is not"),
        6: (json_lines([row(True)])[:-1], "id 'true' is not"),
        7: (json_lines([row(1, rating="safe")])[:-1], "rating 'safe'"),
        8: (json_lines([missing])[:-1], "score is missing"),
        9: (json_lines([{**row(1), "tag_string_meta": 5}])[:-1], "tag_string_meta is not a list of strings: 5"),
        10: (
            json_lines([{**row(1), "tag_string_meta": [["a"]]}])[:-1],
            'tag_string_meta is not a list of strings: [["',
        ),
        11: (json_lines([row(1, "a\nb")])[:-1], "a line break inside tag_string_general"),
        12: (b'{"id": 1, "\xff": 2}', "not UTF-8: byte 0xff"),
        13: (b"[" * 100_000, "not JSON"),
        14: (b'{"id": "' + b"a" * MAX_LINE_BYTES, "the line is longer than"),
        15: (json_lines([row(2**63)])[:-1], "id '9223372036854775808' is not"),
    }
    lines = {2: json_lines([row(7)])[:-1], 4: b"", 16: json_lines([row(8)])[:-1]}
    lines |= {number: raw for number, (raw, _) in invalid.items()}
    report, posts_dir = read_export(b"\n".join(lines[number] for number in sorted(lines)))
    assert report.reconciles
    assert (report.num_read, report.num_kept, report.num_rejected) == (15, 2, 13)
    assert [post["id"] for post in read_rows(posts_dir)] == [7, 8]
    rejects = read_rejects(posts_dir)
    assert [reject["line"] for reject in rejects] == sorted(invalid)
    for reject in rejects:
        raw, reason = invalid[int(str(reject["line"]))]
        assert str(reject["reason"]).startswith(reason)
        assert raw.decode("utf-8", "backslashreplace").startswith(str(reject["raw"])[:MAX_LINE_BYTES])


def test_a_blank_line_of_a_later_block_does_not_move_the_lines_before_it(
    read_export: ReadExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = json_lines([row(1)]), json_lines([row(2)])
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", len(first))
    report, posts_dir = read_export(first + b"{\n\n" + last)
    assert (report.num_read, report.num_rejected) == (3, 1)
    assert [reject["line"] for reject in read_rejects(posts_dir)] == [2]


def test_a_missing_key_is_told_with_what_was_found_and_wanted(read_export: ReadExport) -> None:
    wanted = (
        r"export-0\.csv: wrong columns: found 'id,rating', wanted id,rating,score,.*; missing: score,tag_string_gen"
    )
    with pytest.raises(ExportError, match=wanted):
        read_export(b'{"id": 1, "rating": "s"}\n')


def test_a_file_without_an_object_is_told(read_export: ReadExport) -> None:
    with pytest.raises(ExportError, match=r"no JSON object among the first 100 lines; wanted one a line"):
        read_export(b"{\n" * 200)


def test_two_threads_give_the_same_bytes(read_export: ReadExport) -> None:
    content = json_lines(
        [row(number % 4000 or "?", f"tag_{number * 7919 % 10007} {'x' * 200}") for number in range(9000)]
    )
    _, one = read_export(content)
    _, two = read_export(content, threads=2)
    for name in ("part-00000.parquet", "rejects.parquet"):
        assert (one / name).read_bytes().replace(b"export-0", b"export-2") == (two / name).read_bytes()
