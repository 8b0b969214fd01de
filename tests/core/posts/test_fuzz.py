"""Mutated exports end in kept or rejected rows or in one line of error: never in a traceback, a hang or a wrong row.

``BOORU_EMBED_FUZZ=10000`` runs that many; by default a few hundred run. A case is its number: it is the same each time.
"""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest

from booru_embed_core.posts.conventions import TRUE_WORDS
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.posts.readers.dialect import Dialect
from booru_embed_core.posts.readers.records import MAX_RECORD_LINES
from booru_embed_core.posts.readers.scan import scan_file
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import MAX_LINE_BYTES, ExportError, line_problem
from booru_embed_core.schema import CATEGORIES, POST_COLUMNS, Category, tag_column
from booru_embed_core.tags.tokenizer import split_field
from tests.core.export_helpers import (
    HOSTILE_TAGS,
    LITERAL,
    LITERAL_SETTINGS,
    ONE_THREAD,
    csv_bytes,
    read_rejects,
    read_rows,
    row,
)
from tests.core.posts.readers.slow_records import Form, slow_records

pytestmark = pytest.mark.slow

NUM_CASES = int(os.environ.get("BOORU_EMBED_FUZZ", "120"))
CASES_PER_TEST = 40
BOM = b"\xef\xbb\xbf"
COLUMNS = (*POST_COLUMNS, "is_deleted", "note")
NOTES = ("", "", "free text", 'with "quotes", and more', "two\nlines", 'a\r\n\n"b", c\nd', "\n" * 40)
SPLICES = (
    b",", b'"', b'""', b"\n", b"\r", b"\r\n", b"\t", b"\0", BOM, b"\\N", b"null", b"\\", b"'", b" ", b"  ", b"-", b"{",
    b"\xff", b"\xc3", "é".encode("latin-1"), "é".encode("utf-16"), "長".encode("shift-jis"), "\u202e".encode(),
    "\u2028".encode(), b"PAR1", b"\x1f\x8b", b"9" * 25, b'","', b'\n"', b'"\n', b",,,,,,,,,,", b"#", b"\x1a", b"\x7f",
)  # fmt: skip

Post = tuple[object, ...]


def original(random: Random) -> tuple[bytes, str]:
    """A well-formed export, and its delimiter; ``""`` for another dialect than RFC 4180's."""
    delimiter = random.choice(",,,,\t;|")
    rows = [
        {
            **row(number, " ".join(random.sample(HOSTILE_TAGS, 3)), rating=random.choice("gsqe"), score=number - 5),
            "tag_string_artist": random.choice(HOSTILE_TAGS),
            "is_deleted": random.choice(["false", "0"]),
            "note": random.choice(NOTES),
        }
        for number in range(random.randint(1, 12))
    ]
    if random.random() < 0.2:
        return escaped(rows, random), ""
    return csv_bytes(rows, COLUMNS, random.choice(["\n", "\n", "\r\n"]), delimiter), delimiter


def escaped(rows: Sequence[Mapping[str, object]], random: Random) -> bytes:
    """`rows` as Spark, PostgreSQL or csv2tsv write them."""
    letters, delimiter, quote = random.choice(
        [
            ({"\\": "\\\\", '"': '\\"'}, ",", '"'),
            ({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}, "\t", ""),
            ({"\t": " ", "\n": " ", "\r": " "}, "\t", ""),
        ]
    )
    lines = [[quote + str(post[name]).translate(str.maketrans(letters)) + quote for name in COLUMNS] for post in rows]
    return "\n".join(delimiter.join(line) for line in [list(COLUMNS), *lines]).encode()


def flip(content: bytes, random: Random) -> bytes:
    position = random.randrange(len(content))
    return content[:position] + bytes([content[position] ^ 1 << random.randrange(8)]) + content[position + 1 :]


def splice(content: bytes, random: Random) -> bytes:
    position = random.randrange(len(content) + 1)
    return content[:position] + random.choice(SPLICES) + content[position + random.choice((0, 0, 1)) :]


def cut_out(content: bytes, random: Random) -> bytes:
    position = random.randrange(len(content))
    return content[:position] + content[position + random.randint(1, 30) :]


def truncate(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def move_line(content: bytes, random: Random) -> bytes:
    lines = content.split(b"\n")
    line = random.choice(lines) if random.random() < 0.5 else lines.pop(random.randrange(len(lines)))
    lines.insert(random.randint(0, len(lines)), line)
    return b"\n".join(lines)


def change_quotes(content: bytes, random: Random) -> bytes:
    old, new = random.choice([(b'"', b""), (b'""', b'"'), (b'"', b"'"), (b'",', b","), (b',"', b",")])
    return content.replace(old, new, random.randint(1, 3))


def change_ends(content: bytes, random: Random) -> bytes:
    old, new = random.choice([(b"\n", b"\r\n"), (b"\r\n", b"\n"), (b"\n", b"\r"), (b"\n", b"\n\n"), (b"\n", b"")])
    return content.replace(old, new, random.randint(1, 20))


def change_separators(content: bytes, random: Random) -> bytes:
    old, new = random.choice([(b",", b";"), (b",", b"\t"), (b"\t", b","), (b",", b""), (b",", b", ")])
    return content.replace(old, new, random.randint(1, 20))


def lengthen(content: bytes, random: Random) -> bytes:
    size = random.choice([300, 5_000, 70_000]) if random.random() < 0.95 else (1 << 20) + 1
    return splice(content, random).replace(b"x" * 255, random.choice([b"x", b"long ", b'"']) * size, 1)


MUTATIONS: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip, flip, splice, splice, splice, cut_out, truncate, move_line, move_line, change_quotes, change_ends,
    change_separators, lengthen,
)  # fmt: skip


def mutated(random: Random) -> tuple[bytes, bytes, str]:
    """The original, its mutation, and the original's delimiter."""
    first, delimiter = original(random)
    content = first
    for _ in range(random.randint(1, 4)):
        content = random.choice(MUTATIONS)(content, random) if content else content
    return first, content, delimiter


def packed(content: bytes, random: Random) -> tuple[bytes, bool]:
    """What is put into the file, and whether its stream is whole."""
    kind = random.random()
    if kind < 0.8 or not content:
        return content, True
    stream = gzip.compress(content, 1) if kind < 0.9 else bytes(pa.Codec("zstd").compress(content, asbytes=True))
    if kind < 0.85:
        stream = random.choice((flip, truncate, cut_out))(stream, random)
        return stream or b"\0", False
    return stream, True


def values(post: dict[str, object]) -> Post:
    """A post as it stands in the table."""
    return post["id"], post["rating"], post["score"], *(split_field(str(post[tag_column(c)])) for c in Category)


def fields_of(line: bytes, delimiter: str) -> dict[str, str]:
    """A well-formed line as Python's csv module reads it."""
    (fields,) = csv.reader([line.decode()], delimiter=delimiter)
    return dict(zip(COLUMNS, fields, strict=True))


def values_of(fields: dict[str, str]) -> Post:
    tags = (split_field(fields[tag_column(category)]) for category in CATEGORIES)
    return int(fields["id"]), fields["rating"], int(fields["score"]), *tags


def lines_of(content: bytes) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in content.removeprefix(BOM).split(b"\n")]


def records_of(content: bytes, delimiter: str) -> list[tuple[bytes, bool]]:
    """Each record and whether it is a valid post, by a slow reading byte by byte."""
    lines = content.removeprefix(BOM).split(b"\n")[1:]
    lines = lines if lines and lines[-1] else lines[:-1]
    found = slow_records(lines, MAX_RECORD_LINES, Form(len(COLUMNS) - 1, delimiter.encode()))
    records = [
        (b"\n".join(lines[first : first + count]).removesuffix(b"\r"), is_good) for first, count, is_good in found
    ]
    return [
        (raw, is_good and line_problem(raw, COLUMNS, Dialect(delimiter), LITERAL) is None) for raw, is_good in records
    ]


def check_posts(first: bytes, content: bytes, delimiter: str, report: PostsReport, posts_dir: Path) -> None:
    """That the table holds what the csv module reads, record by record."""
    records = records_of(content, delimiter)
    good = [raw for raw, is_good in records if is_good]
    whole = b"\n".join(good)
    untouched = {raw for raw, _ in records_of(first, delimiter) if b"\n" not in raw and b"\r" not in raw}
    assert all(line in whole for line in lines_of(content)[1:] if line in untouched)
    posts = [fields_of(raw, delimiter) for raw in good]
    shown = [values_of(fields) for fields in posts if fields["is_deleted"] not in TRUE_WORDS]
    expected: dict[object, Post] = {}
    for post in shown:
        expected.setdefault(post[0], post)
    assert [values(post) for post in read_rows(posts_dir)] == list(expected.values())
    assert (report.num_read, report.num_rejected) == (len(records), len(records) - len(good))
    assert (report.num_filtered, report.num_duplicate) == (len(good) - len(shown), len(shown) - len(expected))
    assert len(read_rejects(posts_dir)) == report.num_rejected + report.num_duplicate


def run_case(number: int, folder: Path) -> bool:
    """Whether case `number` gave posts."""
    random = Random(number)
    first, content, delimiter = mutated(random)
    in_file, is_whole = packed(content, random)
    file, posts_dir = folder / f"case-{number}.csv", folder / f"posts-{number}"
    file.write_bytes(in_file)
    posts_dir.mkdir()
    has_header = lines_of(content)[0] == lines_of(first)[0]
    try:
        report = read_posts([file], posts_dir, LITERAL_SETTINGS, ONE_THREAD)
    except ExportError as error:
        problem = str(error)
        assert file.name in problem
        assert "\n" not in problem
        assert list(posts_dir.iterdir()) == []
        is_known = delimiter and is_whole and has_header
        assert not (is_known and any(is_good for _, is_good in records_of(content, delimiter))), problem
        return False
    assert report.reconciles
    assert report.num_kept == len(read_rows(posts_dir))
    if is_whole and has_header and scan_file(file).dialect == Dialect(delimiter):
        check_posts(first, content, delimiter, report, posts_dir)
    return True


@pytest.fixture(autouse=True)
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(MAX_LINE_BYTES)
    yield
    csv.field_size_limit(before)


@pytest.mark.parametrize("start", range(0, NUM_CASES, CASES_PER_TEST))
def test_mutated_exports_end_in_rows_or_one_line(tmp_path: Path, start: int) -> None:
    num_read = sum(run_case(number, tmp_path) for number in range(start, min(start + CASES_PER_TEST, NUM_CASES)))
    assert num_read > CASES_PER_TEST // 4, "most of what stays of a file is to be read"
