"""The generated export: equal seeds give equal bytes, csv reads every name, and files may end at any chunk."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from benchmarks import corpus as corpus_module
from benchmarks._corpus_names import HOSTILE_ARTISTS, HOSTILE_GENERAL, NumNames, make_names
from benchmarks.corpus import HEADER, Corpus, main, write_corpus
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.schema import CATEGORIES, RATINGS, Category
from booru_embed_core.settings import DuckdbSettings, PostsSettings

FEW = NumNames(general=300, artist=80, copyright=40, character=100, meta=20)


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "CHUNK_ROWS", 400)


def rows_of(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content, newline="")))


def written(folder: Path, num_rows: int, seed: int = 1, rows_per_file: int = 800) -> bytes:
    paths = write_corpus(Corpus(num_rows, seed, FEW), folder, rows_per_file)
    contents = [path.read_bytes() for path in paths]
    assert all(content.startswith(HEADER.encode()) for content in contents)
    return b"".join(content.removeprefix(HEADER.encode()) for content in contents)


def test_names_are_different_and_as_many_as_asked() -> None:
    names = make_names(FEW, 3)
    assert [len(names[category]) for category in CATEGORIES] == [300, 80, 40, 100, 20]
    assert all(len(set(of_category)) == len(of_category) for of_category in names.values())
    assert set(HOSTILE_GENERAL) <= set(names[Category.GENERAL])
    assert set(HOSTILE_ARTISTS) <= set(names[Category.ARTIST])
    assert not any(" " in name or not name for of_category in names.values() for name in of_category)


@pytest.mark.usefixtures("_small_chunks")
def test_the_seed_and_the_rows_decide_every_byte(tmp_path: Path) -> None:
    first = written(tmp_path / "a", 1900)
    assert written(tmp_path / "b", 1900) == first
    assert written(tmp_path / "c", 1900, rows_per_file=400) == first
    assert written(tmp_path / "d", 1900, seed=2) != first
    assert len(list((tmp_path / "a").iterdir())) == 3
    assert len(list((tmp_path / "c").iterdir())) == 5


def test_python_reads_names_in_byte_order_without_repeats(tmp_path: Path) -> None:
    names = make_names(FEW, 1)
    rows = rows_of(HEADER + written(tmp_path, 3000, rows_per_file=50_000).decode())
    assert len(rows) == 3000
    ids = [int(row["id"]) for row in rows]
    assert ids == sorted(set(ids))
    assert {row["rating"] for row in rows} == set(RATINGS)
    for category in CATEGORIES:
        fields = [row[f"tag_string_{category}"].split(" ") for row in rows if row[f"tag_string_{category}"]]
        assert all(field == sorted(set(field), key=str.encode) for field in fields)
        assert {tag for field in fields for tag in field} <= set(names[category])
        assert len(fields) < len(rows) or category is Category.GENERAL
    used = {tag for row in rows for tag in row["tag_string_general"].split(" ")}
    assert set(HOSTILE_GENERAL) <= used


def test_the_project_keeps_every_row(tmp_path: Path) -> None:
    write_corpus(Corpus(2000, 1, FEW), tmp_path)
    (tmp_path / "posts").mkdir()
    settings = PostsSettings(tag_separator=" ", null_words=())  # some of its tags hold commas
    report = read_posts([tmp_path / "posts_00.csv"], tmp_path / "posts", settings, DuckdbSettings(threads=1))
    assert (report.num_read, report.num_kept) == (2000, 2000)


def test_a_file_holds_whole_chunks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="70000 rows per file: give a multiple of 50000"):
        write_corpus(Corpus(10, 1, FEW), tmp_path, 70_000)


def test_the_command_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "--out" in capsys.readouterr().err
