"""The command ``ingest``: what it prints, writes and refuses. What it reads is tested in ``posts/test_ingest.py``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.cli.main import main
from booru_embed_core.posts.implications import read_implications
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
        (["--out", "{out}"], 2, "Name an export by SOURCE..., a table by --bigquery, or either by --settings"),
        (["{export}", "--out", "{out}", "--bigquery", "a.b.c"], 2, "Name either an export"),
        (["{export}", "--out", "{out}", "--project", "mine"], 2, "--project needs --bigquery"),
        (["{export}", "--out", "{out}", "--ratings", "g,x"], 2, "--ratings g,x: 'x' is not one of g, s, q, e"),
        (["{export}", "--out", "{out}", "--min-score", "3e9"], 2, "--min-score"),
        (["{export}", "--out", "{out}", "--aliases", "{out}"], 1, "no such file; correct --aliases"),
        (["{export}", "--out", "{out}", "--tag-categories", "{out}"], 1, "correct --tag-categories"),
        (["{export}", "--out", "{out}", "--to", "xml"], 2, "xml"),
        (["{export}", "--out", "{out}", "--limit", "0"], 2, "--limit"),
        (["{export}/*.gz", "--out", "{out}"], 1, "no such export file; correct SOURCE or put the file there"),
        (["{export}", "--out", "{out}", "--explain"], 2, "Name either --out DIR"),
        (["{export}", "--out", "{out}", "--preset", "ours"], 2, "--preset 'ours': Input should be 'caption-folder', "),
        (["{export}", "--out", "{out}", "--tag-separator", "/"], 2, "--tag-separator '/': Input should be 'auto', "),
        (["{export}", "--out", "{out}", "--settings", "{out}.toml"], 1, "out.toml: no such settings file; name one"),
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


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    """Settings in a folder of their own, beside an export without scores and with ratings of another site."""
    folder = tmp_path / "project"
    folder.mkdir()
    rows = [{**row(1, "old a", artist="x, y"), "rating": "safe"}, {**row(2, "b, c"), "rating": "safe"}]
    for one in rows:
        del one["score"]
    pq.write_table(pa.Table.from_pylist(rows), folder / "posts.parquet")
    (folder / "tags.csv").write_text("tag,category,aliases\nnew,0,old\n", encoding="utf-8")
    file = folder / "mine.toml"
    (folder / "implied.csv").write_text("antecedent,consequent\nold,c\n", encoding="utf-8")
    lines = [
        'export = ["*.parquet"]',
        'aliases = "tags.csv"',
        'implications = "implied.csv"',
        "missing_score = 7",
        'rating_names = {safe = "g"}',
    ]
    file.write_text("\n".join(["[posts]", *lines]), encoding="utf-8")
    return file


@pytest.mark.parametrize("is_variable", [False, True])
def test_a_settings_file_says_what_options_cannot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings_file: Path, is_variable: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--out", "out"]
    if is_variable:
        monkeypatch.setenv("BOORU_EMBED_SETTINGS", str(settings_file))
    else:
        arguments += ["--settings", "project/mine.toml"]
    assert run(monkeypatch, *arguments) == 0
    wanted = [row(1, "old_a", artist="x y", rating="g", score=7), row(2, "b c", rating="g", score=7)]
    assert read_rows(tmp_path / "out") == wanted


def test_options_override_the_settings_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings_file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "posts.csv").write_text("id,rating,score,tag_string\n5,safe,1,old b\n6,e,1,c\n", encoding="utf-8")
    (tmp_path / "tags.csv").write_text("tag,category\nold,1\nnew,1\nb,0\n", encoding="utf-8")
    options = ["--out", "out", "--settings", settings_file, "--ratings", "g", "--tag-categories", "tags.csv"]
    assert run(monkeypatch, "posts.csv", *options) == 0
    # The tables of aliases and implications are the file's, beside it.
    assert read_rows(tmp_path / "out") == [row(5, "b", artist="new", rating="g", score=1)]
    assert read_implications(tmp_path / "out") == [("new", "c")]


def test_settings_in_the_working_directory_are_not_read_unasked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(settings_file.rename(settings_file.with_name("settings.toml")).parent)
    assert run(monkeypatch, "posts.parquet", "--out", "out") == 1
    error = capsys.readouterr().err
    assert "missing: score" in error
    assert error.endswith("set [posts] missing_score if there is none ([posts] stands in a file for --settings)\n")
    Path("settings.toml").write_text("[posts]\nmissing_score = 0\n", encoding="utf-8")
    assert run(monkeypatch, "posts.parquet", "--out", "out", "--settings", "settings.toml") == 1
    error = capsys.readouterr().err
    assert "in [posts.rating_names]" in error
    assert error.endswith(" (in settings.toml)\n")
    assert run(monkeypatch, "--out", "out", "--settings", "settings.toml") == 2
    assert "Name an export by SOURCE" in capsys.readouterr().err


def test_an_export_beside_several_sources_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "".join(f"[[posts.source]]\nsite = 's{n}'\nexport = ['exports/{n}.tsv']\n" for n in (1, 2))
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    arguments = ["--out", tmp_path / "out", "--settings", tmp_path / "settings.toml"]
    for more in ([export], ["--aliases", "tags.csv"], ["--preset", "e621-api"]):
        assert run(monkeypatch, *arguments, *more) == 2
        assert "settings.toml has [[posts.source]], which set exports, tables" in capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--min-score", "0") == 0
    assert "8 posts read, 8 kept, 0 duplicate" in capsys.readouterr().out


def test_a_preset_and_a_separator_are_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("tag,category\na_b,0\n", encoding="utf-8")
    (tmp_path / "posts.csv").write_text('id,rating,score,tags\n1,safe,2,"a b,c&amp;d"\n', encoding="utf-8")
    options = ["--preset", "gelbooru-api", "--tag-separator", ",", "--tag-categories", tmp_path / "tags.csv"]
    assert run(monkeypatch, tmp_path / "posts.csv", "--out", tmp_path / "out", *options) == 0
    assert read_rows(tmp_path / "out") == [row(1, "a_b c&d", rating="g", score=2)]


def test_what_is_left_out_of_a_folder_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], export: Path, tmp_path: Path
) -> None:
    for number in range(9):
        (export / f"{number}.md").touch()
    assert run(monkeypatch, export, "--out", tmp_path / "out") == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "reading 1.tsv"
    assert told[1] == "left out, since they hold no posts: 0.md, 1.md, 2.md, 3.md, 4.md and 4 more"
    assert told[2].startswith("warning: 2.tsv: 1 of 4 posts have the id of a post in an earlier file")


def test_explain_prints_what_would_be_read_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{**row(number), "rating": "safe"} for number in range(30)]
    Path("posts.csv").write_bytes(csv_bytes(rows))
    assert run(monkeypatch, "posts.csv", "--explain") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "posts.csv: CSV, comma, quotes, doubled\n  refused  30 of the first 30 records are invalid"
    )
    assert "\n  ratings  safe (30) -> g\n" in printed
    assert printed.endswith(
        '[posts]\nexport = ["posts.csv"]  # paths start from the folder of this file\n\n[posts.rating_names]\n'
        'safe = "g"  # or "s": before 2022 Danbooru\'s safe covered today\'s g and s\n'
    )
    assert [path.name for path in tmp_path.iterdir()] == ["posts.csv"]
    Path("told.toml").write_text(printed[printed.index("[posts]\n") :], encoding="utf-8")
    assert run(monkeypatch, "--settings", "told.toml", "--out", "out") == 0
    assert "30 kept" in capsys.readouterr().out
    assert run(monkeypatch, "posts.csv", "--explain", "--json") == 0
    explained = json.loads(capsys.readouterr().out)
    assert explained["is_complete"]
    assert explained["files"][0]["ratings"] == {"safe": [30, "g"]}
