"""The command ``ingest``: what it prints, writes and refuses. What it reads is tested in ``posts/test_ingest.py``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.cli.main import main
from booru_embed_core.posts.report import PostsReport
from tests.core.export_helpers import PATTERN_LIKE, csv_bytes, read_rows, row


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["booru-embed", "ingest", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    (tmp_path / "exports").mkdir()
    for number in (1, 2):
        rows = [row(3 * number + line) for line in range(4)]
        (tmp_path / f"exports/{number}.tsv").write_bytes(csv_bytes(rows, delimiter="\t"))
    return tmp_path / "exports"


def test_a_folder_becomes_one_tsv(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], export: Path, tmp_path: Path
) -> None:
    assert run(monkeypatch, export, "--out", tmp_path / "out", "--to", "tsv") == 0
    out = capsys.readouterr().out
    assert out == f"{tmp_path / 'out'}: 8 posts read, 7 kept, 1 duplicate, 0 rejected, 0 filtered\n"
    assert len((tmp_path / "out/danbooru-captions.tsv").read_text(encoding="utf-8").splitlines()) == 8


@pytest.mark.parametrize("limit", [[], ["--limit", 3]])
@pytest.mark.parametrize("name", PATTERN_LIKE)
def test_a_files_name_is_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, limit: list[object]) -> None:
    monkeypatch.chdir(tmp_path)
    for post_id, other in enumerate(("ab", "a", "b", "axb", "x"), start=100):
        Path(f"{other}.csv").write_bytes(csv_bytes([row(post_id)]))
    Path(f"{name}.csv").write_bytes(csv_bytes([row(1), row(2)]))
    assert run(monkeypatch, f"{name}.csv", "--out", name, *limit) == 0
    assert read_rows(tmp_path / name) == [row(1), row(2)]


def test_json_is_the_report_and_a_limit_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], export: Path, tmp_path: Path
) -> None:
    assert run(monkeypatch, export, "--out", tmp_path / "out", "--limit", 5, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["num_read"], printed["num_kept"], printed["num_duplicate"]) == (6, 5, 1)
    report = (tmp_path / "out/report.json").read_text(encoding="utf-8")
    assert PostsReport.from_json(report) == PostsReport.from_json(json.dumps(printed))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "part-00000.parquet",
        "rejects.parquet",
        "report.json",
    ]


def test_options_choose_posts_and_replace_old_names(
    monkeypatch: pytest.MonkeyPatch, export: Path, tmp_path: Path
) -> None:
    rows = [row(1, "old a"), row(2, "a", score=9), row(3, "b", rating="e"), row(4, "old", rating="g", score=9)]
    (export / "1.tsv").unlink()
    (export / "2.tsv").write_bytes(csv_bytes(rows, delimiter="\t"))
    (tmp_path / "tags.csv").write_text("tag,category,aliases\nnew,0,old\n", encoding="utf-8")
    chosen = ["--ratings", "g,s", "--min-score", 0, "--aliases", tmp_path / "tags.csv"]
    assert run(monkeypatch, export, "--out", tmp_path / "out", *chosen) == 0
    assert [(post["id"], post["tag_string_general"]) for post in read_rows(tmp_path / "out")] == [
        (1, "new a"),
        (2, "a"),
        (4, "new"),
    ]


def test_one_field_of_all_tags_is_taken_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    posts = [{"id": 1, "rating": "general", "score": 0, "tag_string": "1girl miku new_thing"}]
    pq.write_table(pa.Table.from_pylist(posts), tmp_path / "posts.parquet")
    (tmp_path / "tags.csv").write_text("name,category\n1girl,0\nmiku,4\n", encoding="utf-8")
    arguments = [tmp_path / "posts.parquet", "--out", tmp_path / "out", "--json"]
    assert run(monkeypatch, *arguments) == 1
    assert "has tag_string and none of tag_string_general" in capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--tag-categories", tmp_path / "tags.csv") == 0
    assert json.loads(capsys.readouterr().out)["num_unknown_tags"] == 1
    wanted = row(1, "1girl new_thing", rating="g", character="miku")
    assert read_rows(tmp_path / "out") == [wanted]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{export}"], 2, "--out"),
        (["--out", "{out}"], 2, "SOURCE"),
        (["{export}", "--out", "{out}", "--bigquery", "a.b.c"], 2, "Name either an export"),
        (["{export}", "--out", "{out}", "--project", "mine"], 2, "--project needs --bigquery"),
        (["{export}", "--out", "{out}", "--ratings", "g,x"], 2, "--ratings g,x: 'x' is not one of g, s, q, e; say which one it is in [posts.rating_names]"),
        (["{export}", "--out", "{out}", "--min-score", "3e9"], 2, "--min-score"),
        (["{export}", "--out", "{out}", "--aliases", "{out}"], 1, "no such file; correct [posts] aliases"),
        (["{export}", "--out", "{out}", "--tag-categories", "{out}"], 1, "correct [posts] tag_categories"),
        (["{export}", "--out", "{out}", "--to", "xml"], 2, "xml"),
        (["{export}", "--out", "{out}", "--limit", "0"], 2, "--limit"),
        (["{export}/*.gz", "--out", "{out}"], 1, "no such export file"),
        (["{export}", "--out", "{export}"], 1, "is not an empty folder"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    export: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    paths = {"export": export, "out": tmp_path / "out"}
    assert run(monkeypatch, *(argument.format(**paths) for argument in arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert message in captured.err
    assert not (tmp_path / "out").exists()
