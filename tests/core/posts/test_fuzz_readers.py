"""Mutated exports of every format end in counted posts or in one line of error: never in a traceback, a hang or a loss.

``BOORU_EMBED_FUZZ=20000`` runs that many; by default a few hundred run. A case is its number: it is the same each time.
CSV alone is looked at more closely in ``test_fuzz.py``.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import signal
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts.parquet_parts import count_posts
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import CATEGORIES, POST_COLUMNS, RATINGS, TAG_COLUMNS
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, csv_bytes, read_rejects, read_rows, row

pytestmark = pytest.mark.slow

NUM_CASES = int(os.environ.get("BOORU_EMBED_FUZZ", "160"))
CASES_PER_TEST = 40
SECONDS = 60
"""A case takes a few hundredths of a second; one that takes this long hangs."""

SPLICES = (
    b",", b'"', b"'", b"\n", b"\r\n", b"\t", b"\0", b"\\", b"\\N", b"null", b"NaN", b"[", b"]", b"{", b"}", b":", b"[[",
    b'{"', b'"}', b"\xff", b"\xc3", b"\\ud83d", b"\\u0000", b"1e999", b"-", b"9" * 30, b"true", b'"id":', b", ",
    b"&#39;", b"&", b"\xef\xbb\xbf", b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"SQLite format 3\0", b"ARROW1",
)  # fmt: skip

Files = dict[str, bytes]
"""The files of an export by their paths."""


def posts(random: Random) -> list[dict[str, Any]]:
    words = (
        "1girl",
        "long_hair",
        'say_"hi"',
        "it's",
        "\\m/",
        "caf\u00e9",
        "null",
        "d:",
        "(o)_(o)",
        "a&b",
        "\U0001f600",
    )
    rows = []
    for number in range(random.randint(2, 8)):
        tags = random.sample(words, random.randint(0, 4))
        rows.append(row(number, " ".join(tags), rating=random.choice(RATINGS), score=number - 3))
    return rows


def by_category(post: dict[str, Any]) -> dict[str, list[str]]:
    return {str(c): str(post[name]).split() for c, name in zip(CATEGORIES, TAG_COLUMNS, strict=True)}


def json_lines(rows: list[dict[str, Any]], _: Random) -> Files:
    return {"posts.jsonl": "".join(json.dumps(one) + "\n" for one in rows).encode()}


def json_shape(rows: list[dict[str, Any]], random: Random) -> Files:
    if random.random() < 0.5:
        nested = {"score": {"up": 1, "total": 3}, "flags": {"deleted": False}}
        rows = [{"id": one["id"], "rating": one["rating"], **nested, "tags": by_category(one)} for one in rows]
    elif random.random() < 0.5:
        rows = [
            {**{name: str(one[name]) for name in ("id", "rating", "score")}}
            | {
                "tags": [
                    {"name": tag, "category": n}
                    for n, c in enumerate((0, 1, 3, 4, 5))
                    for tag in list(by_category(one).values())[n]
                ]
            }
            for one in rows
        ]
    shapes: tuple[Callable[[Any], str], ...] = (
        json.dumps,
        lambda one: json.dumps(one, indent=1),
        lambda one: json.dumps({"posts": one}),
        lambda one: "\n".join(json.dumps(post) for post in one),
        lambda one: "\n".join(json.dumps(post, indent=2) for post in one),
    )
    return {"posts.json": random.choice(shapes)(rows).encode()}


def delimited(rows: list[dict[str, Any]], random: Random) -> Files:
    kind = random.randrange(5)
    if kind == 0:
        return {
            "posts.csv": csv_bytes([{**one, "note": 'two\nlines, "quoted"'} for one in rows], (*POST_COLUMNS, "note"))
        }
    if kind == 1:  # no quoting
        lines = ["\t".join(str(one[name]) for name in POST_COLUMNS) for one in rows]
        return {"posts.tsv": "\n".join(["\t".join(POST_COLUMNS), *lines, ""]).encode()}
    if kind == 2:  # PostgreSQL's text
        lines = ["\t".join(str(one[name]).replace("\\", "\\\\") or "\\N" for name in POST_COLUMNS) for one in rows]
        return {"posts.tsv": "\n".join(["\t".join(POST_COLUMNS), *lines, ""]).encode()}
    if kind == 3:  # backslash escapes
        quoted = [
            ['"' + str(one[n]).replace("\\", "\\\\").replace('"', '\\"') + '"' for n in POST_COLUMNS] for one in rows
        ]
        return {"posts.csv": "\n".join([",".join(POST_COLUMNS), *(",".join(one) for one in quoted), ""]).encode()}
    commas = [{name: str(one[name]).replace(" ", ", ") for name in POST_COLUMNS} for one in rows]
    return {"posts.csv": csv_bytes(commas)}


def parquet(rows: list[dict[str, Any]], random: Random) -> Files:
    table = pa.Table.from_pylist(rows)
    if random.random() < 0.5:
        lists = [[by_category(one)[str(c)] for one in rows] for c in CATEGORIES]
        for index, values in enumerate(lists):
            table = table.set_column(3 + index, str(CATEGORIES[index]), pa.array(values, pa.list_(pa.string())))
    sink = io.BytesIO()
    if random.random() < 0.7:
        pq.write_table(table, sink, compression=random.choice(["snappy", "zstd", "none"]))
        return {"posts.parquet": sink.getvalue()}
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return {"data-00000-of-00001.arrow": sink.getvalue()}


def sqlite(rows: list[dict[str, Any]], _: Random) -> Files:
    with sqlite3.connect(":memory:") as connection:
        connection.execute(f"create table posts ({', '.join(POST_COLUMNS)})")
        marks = ", ".join("?" * len(POST_COLUMNS))
        connection.executemany(
            f"insert into posts values ({marks})", [tuple(one[n] for n in POST_COLUMNS) for one in rows]
        )
        connection.commit()
        return {"posts.sqlite": connection.serialize()}


def captions(rows: list[dict[str, Any]], random: Random) -> Files:
    texts = [", ".join(str(one["tag_string_general"]).split()).replace("_", " ") for one in rows]
    kind = random.randrange(3)
    if kind == 0:
        return {f"set/{number}.txt": text.encode() for number, text in enumerate(texts)}
    if kind == 1:
        return {f"set/{number}.jpg.json": json.dumps(one, indent=2).encode() for number, one in enumerate(rows)}
    captioned = {f"/images/{number}.png": {"tags": text, "caption": "x"} for number, text in enumerate(texts)}
    return {"meta_cap.json": json.dumps(captioned, indent=1).encode()}


FORMATS = (json_lines, json_shape, json_shape, delimited, delimited, parquet, sqlite, captions)


def packed(files: Files, random: Random) -> Files:
    """The files in a container, or as they are."""
    if random.random() < 0.6:
        return files
    (name, content), *_ = files.items()
    kind = random.randrange(6)
    if kind < 4 and len(files) == 1 and "/" not in name:
        pack, suffix = ((gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz"), (zstd, ".zst"))[kind]
        return {name + suffix: pack(content)}
    sink = io.BytesIO()
    if kind % 2:
        with zipfile.ZipFile(sink, "w") as archive:
            for path, data in files.items():
                archive.writestr(path, data)
        return {"all.zip": sink.getvalue()}
    with tarfile.open(fileobj=sink, mode=random.choice(["w", "w:gz", "w:xz"])) as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return {"all.tar": sink.getvalue()}


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


def mutated(content: bytes, random: Random) -> bytes:
    for _ in range(random.randint(1, 3)):
        if not content:
            break
        at = random.randrange(len(content))
        kind = random.randrange(6)
        if kind == 0:
            content = content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]
        elif kind in (1, 2):
            content = content[:at] + random.choice(SPLICES) + content[at + random.choice((0, 0, 1)) :]
        elif kind == 3:
            content = content[:at] + content[at + random.randint(1, 20) :]
        elif kind == 4:
            content = content[: random.choice((at, len(content) - random.randint(0, 8)))]
        else:
            end = min(len(content), at + random.randint(1, 60))
            content = content[:end] + content[at:end] * random.randint(1, 2) + content[end:]
    return content


@contextmanager
def no_hang(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(folder: Path, files: Files) -> tuple[PostsReport, Path]:
    for path, content in files.items():
        (folder / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / path).write_bytes(content)
    (out := folder / "out").mkdir()
    (folder / "tags.csv").write_text("tag,category\n1girl,0\n", encoding="utf-8")
    settings = PostsSettings.model_validate(
        {"export": ["in"], "tag_categories": "tags.csv", "max_rejected_share": 0.999, "missing_score": 0}
        | {"missing_rating": "g"}
    )
    return read_export(settings, folder, out, ONE_THREAD), out


def check(number: int, folder: Path) -> str:
    """What became of case `number`."""
    random = Random(number)
    files = random.choice(FORMATS)(posts(random), random)
    files = packed(files, random)
    changed = random.choice(list(files))
    files[changed] = mutated(files[changed], random)
    if not files[changed]:
        return "empty"
    try:
        with no_hang(SECONDS):
            report, out = read(folder, files)
    except ExportError as error:
        text = str(error)
        assert "\n" not in text, text
        assert len(text) < 4000, text
        assert str(folder) in text or any(name.split("/")[0].split(".")[0] in text for name in files), text
        leftover = [path for path in (folder / "out").rglob("*") if path.is_file()]
        assert not leftover, leftover
        return "refused"
    assert report.reconciles
    rows = read_rows(out)
    assert len(rows) == count_posts(out) == report.num_kept
    assert len(read_rejects(out)) == report.num_duplicate + report.num_rejected
    assert len({one["id"] for one in rows}) == len(rows)
    for one in rows:
        assert one["rating"] in RATINGS
        tags = " ".join(str(one[name]) for name in TAG_COLUMNS)
        assert not set("\r\n") & set(tags), tags
    return "read"


@pytest.mark.parametrize("start", range(0, NUM_CASES, CASES_PER_TEST))
def test_a_mutated_export_is_counted_or_refused_in_one_line(start: int, tmp_path: Path) -> None:
    outcomes = []
    for number in range(start, min(start + CASES_PER_TEST, NUM_CASES)):
        (folder := tmp_path / str(number)).mkdir()
        try:
            outcomes.append(check(number, folder))
        except BaseException as error:
            error.add_note(f"case {number}")
            raise
    # A fuzz whose inputs are all refused, or all read, looks at nothing.
    assert {"read", "refused"} <= set(outcomes)
