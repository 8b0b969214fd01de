"""Files in each dialect come back as they were written; what shows no other dialect is read by RFC 4180."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.conventions import DANBOORU
from booru_embed_core.posts.readers import dialect_found, scan
from booru_embed_core.posts.readers.dialect import Dialect
from booru_embed_core.posts.readers.scan import scan_file
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.schema import POST_COLUMNS
from tests.core.export_helpers import csv_bytes, kept, read_rejects, read_rows, row

ReadExport = Callable[..., tuple[PostsReport, Path]]
Rows = Sequence[dict[str, object]]

TAGS = ['this_"is"', '"quoted"', '"a"_tag', "\\m/", "\\n/", ":\\", "\\\\o//", "\\", "a;b", "a|b", "solo", "\\N_x", "'"]
ROWS = [
    {**row(number, " ".join(TAGS[number % 5 :: 2])), "tag_string_artist": TAGS[number % len(TAGS)], "note": note}
    for number, note in enumerate(["", "a", 'say "hi"', "x, y", "tab\there", "two\nlines", "back\\slash"] * 4)
]
COLUMNS = (*POST_COLUMNS, "note")


def unquoted_tsv(rows: Rows) -> bytes:
    """As csv2tsv writes it: a space for what the format cannot hold."""
    lines = [list(COLUMNS), *([str(post[name]) for name in COLUMNS] for post in rows)]
    text = ["\t".join(field.replace("\t", " ").replace("\n", " ") for field in line) for line in lines]
    return "\n".join([*text, ""]).encode()


def postgres(rows: Rows) -> bytes:
    """As COPY writes it."""
    letters = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n"})
    lines = ["\t".join(str(post[name]).translate(letters) or "\\N" for name in COLUMNS) for post in rows]
    return "\n".join(["\t".join(COLUMNS), *lines, ""]).encode()


def mysql(rows: Rows) -> bytes:
    """As SELECT INTO OUTFILE writes it: a backslash before the character itself."""
    letters = str.maketrans({"\\": "\\\\", "\t": "\\\t", "\n": "\\\n"})
    lines = ["\t".join(str(post[name]).translate(letters) or "\\N" for name in COLUMNS) for post in rows]
    return "\n".join(["\t".join(COLUMNS), *lines, ""]).encode()


def mysql_csv(rows: Rows) -> bytes:
    """As SELECT INTO OUTFILE writes it with quotes."""

    def text(value: object) -> str:
        if value == "":
            return "\\N"
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\\n")
        return f'"{escaped}"' if isinstance(value, str) else escaped

    lines = [",".join(text(post[name]) for name in COLUMNS) for post in rows]
    return "\n".join([",".join(COLUMNS), *lines, ""]).encode()


def spark(rows: Rows) -> bytes:
    """As Spark writes it: quotes where a field needs them or is empty, and a backslash before each quote."""

    def text(value: object) -> str:
        field = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{field}"' if not field or set(field) & set(",\n") else field

    lines = [",".join(text(post[name]) for name in COLUMNS) for post in rows]
    return "\n".join([",".join(COLUMNS), *lines, ""]).encode()


def python_without_quotes(rows: Rows) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONE, escapechar="\\", lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([str(post[name]) for name in COLUMNS] for post in rows if "\n" not in str(post["note"]))
    return text.getvalue().encode()


WRITERS = {
    unquoted_tsv: Dialect("\t", "", ""),
    postgres: Dialect("\t", "", "\\"),
    mysql: Dialect("\t", "", "\\"),
    mysql_csv: Dialect(",", '"', "\\"),
    spark: Dialect(",", '"', "\\"),
    python_without_quotes: Dialect(",", "", "\\"),
    csv_bytes: Dialect(","),
}


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_each_dialect_is_found_and_its_tags_come_back(
    read_export: ReadExport, tmp_path: Path, writer: Callable[..., bytes], threads: int, newline: bytes
) -> None:
    if newline == b"\r\n" and writer is mysql:
        pytest.skip("escapes the line feed alone")
    content = writer(ROWS, COLUMNS) if writer is csv_bytes else writer(ROWS)
    content = content.replace(b"\n", newline)
    (tmp_path / "export.csv").write_bytes(content)
    assert scan_file(tmp_path / "export.csv").dialect == WRITERS[writer]
    report, posts_dir = read_export(content, threads=threads)
    rows = [post for post in ROWS if writer is not python_without_quotes or "\n" not in str(post["note"])]
    assert [reject["reason"] for reject in read_rejects(posts_dir)] == []
    assert read_rows(posts_dir) == [{name: post[name] for name in POST_COLUMNS} for post in kept(rows)]
    assert report.num_read == len(rows)


FIELD = st.lists(st.sampled_from(TAGS), max_size=3).map(" ".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=6), delimiter=st.sampled_from(",;|\t"))
def test_no_file_of_rfc_4180_is_taken_for_another_one(
    tmp_path: Path, fields: list[tuple[str, str, str]], delimiter: str
) -> None:
    rows = [row(number, general, artist=artist, meta=meta) for number, (general, artist, meta) in enumerate(fields)]
    file = tmp_path / "export.csv"
    file.write_bytes(csv_bytes([{**post, "id": int(str(post["id"]))} for post in rows], delimiter=delimiter))
    found = scan_file(file)
    # Backslashes that are all of a database's kind and no quotes anywhere: either dialect explains such a file.
    assert found.dialect == Dialect(delimiter) or (delimiter == "\t" and b'"' not in file.read_bytes())
    assert not len(found.malformed)


def test_a_tsv_that_shows_both_is_read_by_rfc_4180_and_names_the_others(read_export: ReadExport) -> None:
    content = csv_bytes([row(1, "a\tb"), row(2, 'c"d'), row(3)], delimiter="\t") + b'4\ts\t0\te"f\t\t\t\t\n'
    _, posts_dir = read_export(content)
    assert [reject["line"] for reject in read_rejects(posts_dir)] == [5]
    assert [post["id"] for post in read_rows(posts_dir)] == [1, 2, 3]


def test_a_damaged_tsv_with_quotes_around_all_fields_keeps_its_dialect(read_export: ReadExport) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, delimiter="\t", lineterminator="\n")
    writer.writerows([POST_COLUMNS, *([number, "s", 0, "a b", "", "c", "", ""] for number in range(5))])
    _, posts_dir = read_export(text.getvalue().replace('"a b"', '"a "b"', 1).encode())
    assert [reject["line"] for reject in read_rejects(posts_dir)] == [2]
    assert [post["tag_string_general"] for post in read_rows(posts_dir)] == ["a b"] * 4


def test_the_first_bytes_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SAMPLE_BYTES", 1)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 300)
    file = tmp_path / "export.csv"
    plain = unquoted_tsv([{**row(number), "note": ""} for number in range(40)])
    file.write_bytes(plain + b'99\ts\t0\ta"b\t\t\t\t\t\n')
    assert scan_file(file).malformed.tolist() == [42]
    monkeypatch.setattr(scan, "SAMPLE_BYTES", dialect_found.SAMPLE_BYTES)
    assert scan_file(file, DANBOORU).malformed.tolist() == []
