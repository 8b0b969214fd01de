"""The independent count, line numbers and the lines found malformed."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.readers import lines as lines_module
from booru_embed_core.posts.readers import records as records_module
from booru_embed_core.posts.readers.dialect import RFC_4180
from booru_embed_core.posts.readers.lines import raw_lines
from booru_embed_core.posts.readers.scan import scan_file, select_records, write_clean_copy
from booru_embed_core.posts.validation import MAX_LINE_BYTES, ExportError, line_problem
from booru_embed_core.schema import POST_COLUMNS
from tests.core.export_helpers import ANY_FORM, csv_bytes, hostile_rows
from tests.core.posts.readers.slow_records import slow_records

HEADER = ",".join(POST_COLUMNS).encode()
GOOD = b'1,s,0,"a ""b"" c",,"",x,y'
STARTS = st.sampled_from([b"1,s,0,", b"2,s,0,", b"3,s,0,", b'"4",s,0,', b'5,s,0,a,b,c,"d",', b'5,s,0,a,b,c,d,"'])
OTHERS = [b"", b"\r", b"7", b'"', b'x","y"', b'f"', b'f"\r', b'",', b"prose, and so on", b'8,s,0,a,b,c,d,e"', b"a\rb"]
ANY_LINE = st.builds(bytes.__add__, STARTS, ANY_FORM) | st.sampled_from(OTHERS)


ANY_VALUES = Conventions(columns={POST_COLUMNS[-1]: ""}, allow_commas=True)
FORM_PROBLEM = re.compile("quote|fields instead|UTF-8|inside the line")


def test_counts_records_and_finds_malformed_and_blank_lines(tmp_path: Path) -> None:
    lines = [HEADER, GOOD, b"", b"2,s,0,a,b,c,d", GOOD, b'3,s,0,"a,b,c,d,e', b"4,s,0,\xff,b,c,d,e", GOOD]
    file = tmp_path / "export.csv"
    file.write_bytes(b"\n".join(lines))
    scan = scan_file(file)
    assert scan.num_records == 6
    assert scan.malformed.tolist() == [4, 6, 7]
    assert scan.skipped.tolist() == [[3, 1], [4, 1], [6, 1], [7, 1]]
    assert scan.line_of(np.arange(3)).tolist() == [2, 5, 8]
    assert scan.newline == "\n"


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(ANY_LINE, min_size=1, max_size=9), max_lines=st.integers(2, 5), block_bytes=st.integers(1, 300))
def test_finds_in_blocks_of_any_size_the_records_found_byte_by_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[bytes], max_lines: int, block_bytes: int
) -> None:
    monkeypatch.setattr(records_module, "MAX_RECORD_LINES", max_lines)
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", block_bytes)
    file = tmp_path / "export.csv"
    header = ",".join((*POST_COLUMNS[:-1], "note")).encode()
    file.write_bytes(b"\n".join([header, *lines]) + b"\n")
    scan = scan_file(file, ANY_VALUES)
    found = slow_records(lines, max_lines)
    assert scan.num_records == len(found)
    assert scan.malformed.tolist() == [first + 2 for first, _, is_good in found if not is_good]
    assert scan.long.tolist() == [[first + 2, count] for first, count, _ in found if count > 1]
    good = [first + 2 for first, _, is_good in found if is_good]
    assert scan.line_of(np.arange(len(good))).tolist() == good
    raw = {first + 2: b"\n".join(lines[first : first + count]).removesuffix(b"\r") for first, count, _ in found}
    assert dict(select_records(file, sorted(raw), scan.long)) == raw
    for first, count, is_good in found:
        problem = line_problem(raw[first + 2], (*POST_COLUMNS[:-1], "note"), RFC_4180, ANY_VALUES) or ""
        assert not is_good or not FORM_PROBLEM.search(problem)
        assert is_good or count > 1 or problem


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=hostile_rows(), newline=st.sampled_from(["\n", "\r\n"]), block_bytes=st.integers(1, 300))
def test_what_the_csv_module_writes_is_well_formed_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, object]], newline: str, block_bytes: int
) -> None:
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", block_bytes)
    file = tmp_path / "export.csv"
    content = csv_bytes(rows, newline=newline)
    file.write_bytes(content)
    scan = scan_file(file)
    assert (scan.num_records, scan.newline) == (len(rows), newline)
    assert not len(scan.malformed)
    assert newline.encode().join(raw_lines(file)) + newline.encode() == content


def test_line_of_skips_every_pattern_of_malformed_lines(tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    for pattern in range(2**7):
        is_good = [bool(pattern >> index & 1) for index in range(7)]
        file.write_bytes(b"\n".join([HEADER, *(GOOD if good else b"bad" for good in is_good)]))
        wanted = [number for number, good in enumerate(is_good, start=2) if good]
        assert scan_file(file).line_of(np.arange(len(wanted))).tolist() == wanted


def test_a_clean_copy_has_the_other_lines_only(tmp_path: Path) -> None:
    file, copy = tmp_path / "export.csv", tmp_path / "clean.csv"
    file.write_bytes(b"\xef\xbb\xbf" + HEADER + b"\r\n" + GOOD + b"\nbad\r\n" + GOOD)
    scan = scan_file(file)
    assert (scan.newline, scan.malformed.tolist()) == (None, [3])
    write_clean_copy(file, copy)
    assert copy.read_bytes() == HEADER + b"\n" + GOOD + b"\n" + GOOD + b"\n"


def test_a_line_without_end_is_one_malformed_record_and_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", 1 << 18)
    file = tmp_path / "export.csv"
    endless = b"2,s,0," + b"a" * (3 * MAX_LINE_BYTES) + b",b,c,d,e"
    file.write_bytes(b"\n".join([HEADER, GOOD, endless, GOOD]))
    scan = scan_file(file)
    assert (scan.num_records, scan.malformed.tolist()) == (3, [3])
    lengths = [len(line) for line in raw_lines(file)]
    assert lengths[1] == lengths[3] == len(GOOD)
    assert MAX_LINE_BYTES < lengths[2] <= MAX_LINE_BYTES + (1 << 18)


def test_gzip_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    file = tmp_path / "export"
    file.write_bytes(gzip.compress(HEADER + b"\n" + GOOD) + gzip.compress(b"\n" + GOOD + b"\n"))
    scan = scan_file(file)
    assert (scan.compression, scan.num_records, len(scan.malformed)) == ("gzip", 2, 0)


def test_a_cut_gzip_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "export.csv.gz"
    file.write_bytes(gzip.compress(HEADER + b"\n" + GOOD * 100)[:-20])
    with pytest.raises(ExportError, match=r"export\.csv\.gz: the gzip stream is broken .*fetch the file again"):
        scan_file(file)


@pytest.mark.parametrize("content", [b"", b"\n", b"  \r\n", gzip.compress(b"", mtime=0)])
def test_a_file_without_header_is_empty(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "export.csv"
    file.write_bytes(content)
    with pytest.raises(ExportError, match=r"export\.csv: is empty"):
        scan_file(file)
