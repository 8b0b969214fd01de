"""Fuzzed: the scan of a CSV or TSV export, whose records are counted a second time, byte by byte."""

from __future__ import annotations

import csv
import functools
import gzip
import tempfile
from pathlib import Path

from booru_embed_core.posts.readers.dialect import Dialect
from booru_embed_core.posts.readers.records import MAX_RECORD_LINES
from booru_embed_core.posts.readers.scan import scan_file
from booru_embed_core.posts.validation import MAX_LINE_BYTES, ExportError
from tests.core.export_helpers import HOSTILE_TAGS, csv_bytes, row
from tests.core.posts.readers.slow_records import Form, slow_records
from tests.faults.fuzz_cases import Target
from tests.faults.fuzz_texts import SAMPLE

COLUMNS = ("id", "rating", "score", *("tag_string_" + name for name in ("general", "artist", "copyright", "character")))
COLUMNS = (*COLUMNS, "tag_string_meta", "note")
WORDS = (
    b",", b'"', b'""', b"\n", b"\r", b"\r\n", b"\t", b"\0", b"\xef\xbb\xbf", b"\\", b"\\N", b"'", b";", b"|", b"\xff",
    b'","', b'\n"', b'"\n', b",,,,,,,,", b"\x1f\x8b", b"PK\x03\x04", b"id,rating,score\n", b"\n7,g,1,a,b,c,d,e,\n",
    "é".encode("utf-16"), "長".encode("shift-jis"), b"9" * 25,
)  # fmt: skip


def seeds() -> list[bytes]:
    """Small exports with quotes, line breaks and escapes, and the first lines of the sample."""
    rows = [{**row(n, HOSTILE_TAGS[n], artist="a"), "note": ("", "x", 'a "b"\nc')[n % 3]} for n in range(8)]
    plain = csv_bytes(rows, COLUMNS)
    with gzip.open(SAMPLE, "rb") as stream:
        sample = b"".join(stream.readline() for _ in range(4))
    escaped = plain.replace(b'""', b'\\"')
    return [
        plain, csv_bytes(rows, COLUMNS, "\r\n"), csv_bytes(rows, COLUMNS, delimiter="\t"), escaped, sample,
        plain.decode().encode("utf-16"), gzip.compress(plain, mtime=0), plain[:200],
    ]  # fmt: skip


@functools.cache
def scratch() -> Path:
    """A file for the inputs, in memory where the system has such a folder."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None)) / "export.csv"


def read(content: bytes) -> None:
    """Scans an export; where the dialect is the plain one, its records are those that a slow reading finds."""
    csv.field_size_limit(MAX_LINE_BYTES)
    file = scratch()
    file.write_bytes(content)
    found = scan_file(file)
    header = content.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0]
    is_plain = found.columns == COLUMNS and header.removesuffix(b"\r") == ",".join(COLUMNS).encode()
    if not is_plain or found.dialect != Dialect(",") or found.is_rewritten:
        return
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")[1:]
    records = slow_records(lines if lines and lines[-1] else lines[:-1], MAX_RECORD_LINES, Form(len(COLUMNS) - 1))
    assert found.num_records == len(records), (found.num_records, records)
    malformed = [first + 2 for first, _, is_good in records if not is_good]
    assert found.malformed.tolist() == malformed, (found.malformed, malformed)


CSV_SCAN = Target(read, seeds, WORDS, errors=(ExportError,))
