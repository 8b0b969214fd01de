"""Exports to folders: what is written is read again as the same posts."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.filesystem import ForeignPathError
from booru_embed_core.posts.ingest import ingest
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import TooManyRejectsError
from booru_embed_core.schema import Output
from booru_embed_core.settings import DuckdbSettings, PostsSettings
from tests.core.export_helpers import (
    HOSTILE_TAGS,
    ONE_THREAD,
    PATTERN_LIKE,
    csv_bytes,
    hostile_rows,
    kept,
    read_rejects,
    read_rows,
    row,
)


def export_of(file: Path, **values: float) -> PostsSettings:
    # Some of the tags here hold commas.
    return PostsSettings.model_validate({"export": (str(file),), "tag_separator": " ", "null_words": (), **values})


HEADER = (
    "id,rating,score,tag_string_meta,tag_string_general,tag_string_artist,tag_string_copyright,tag_string_character"
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=hostile_rows(), output=st.sampled_from(Output))
def test_what_is_written_is_read_again_as_the_same_posts(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], output: Output
) -> None:
    folder = tmp_path_factory.mktemp("ingest")
    (folder / "export.csv").write_bytes(csv_bytes(rows))
    ingest(export_of(folder / "export.csv"), folder / "text", output, ONE_THREAD)
    beside = {"rejects.parquet", "report.json", "manifest.json"}
    (written,) = (file for file in (folder / "text").iterdir() if file.name not in beside)
    report = ingest(export_of(written), folder / "again", Output.PARQUET, ONE_THREAD)
    assert (report.num_kept, report.num_rejected) == (len(rows), 0)
    assert read_rows(folder / "again") == kept(rows)


@pytest.mark.parametrize("output", Output)
@pytest.mark.parametrize("name", PATTERN_LIKE)
def test_a_name_is_no_pattern(tmp_path: Path, name: str, output: Output) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for post_id, other in enumerate(("ab", "a", "b", "axb", "x"), start=100):
        (folder / f"{other}.csv").write_bytes(csv_bytes([row(post_id)]))
    file = folder / f"{name}.csv"
    file.write_bytes(csv_bytes([row(1), row(2, "a,b"), row("?")]))  # the invalid row has the file read once more
    settings = export_of(file, max_rejected_share=0.5)
    report = ingest(settings, tmp_path / "out" / name / name, output, ONE_THREAD)
    assert (report.num_read, report.num_kept, report.num_rejected) == (3, 2, 1)
    found = ingest(export_of(tmp_path / "out" / name / name), tmp_path / "again", Output.PARQUET, ONE_THREAD)
    assert (found.num_read, found.num_kept, found.reconciles) == (2, 2, True)
    assert read_rows(tmp_path / "again") == [row(1), row(2, "a,b")]
    whole = ingest(export_of(folder, max_rejected_share=0.5), tmp_path / "whole", Output.PARQUET, ONE_THREAD)
    num_files = len(list(folder.iterdir()))
    assert (whole.num_kept, whole.num_rejected, len(whole.files)) == (num_files + 1, 1, num_files)


def test_tsv_is_plain_for_awk(tmp_path: Path) -> None:
    (tmp_path / "export.csv").write_bytes(csv_bytes([row(1, "a,b 'c'", meta="highres"), row(2, rating="e", score=-5)]))
    ingest(export_of(tmp_path / "*.csv"), tmp_path / "out", Output.TSV, ONE_THREAD)
    lines = (tmp_path / "out/danbooru-captions.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == [
        HEADER.replace(",", "\t"),
        "1\ts\t0\thighres\ta,b 'c'\t\t\t",
        "2\te\t-5\t\t1girl\t\t\t",
    ]


@pytest.mark.parametrize("output", Output)
def test_two_threads_give_the_same_bytes(tmp_path: Path, output: Output) -> None:
    rows = [row(number, HOSTILE_TAGS[number % len(HOSTILE_TAGS)]) for number in range(3000)]
    (tmp_path / "export.csv").write_bytes(csv_bytes([*rows, row("?")]))
    reports: list[PostsReport] = []
    for threads in (1, 2):
        duckdb_settings = DuckdbSettings(threads=threads)
        out_dir = tmp_path / f"out-{threads}"
        reports.append(ingest(export_of(tmp_path / "export.csv"), out_dir, output, duckdb_settings))
        assert len(read_rejects(out_dir)) == 1
    assert reports[0] == reports[1]
    names = sorted(path.name for path in (tmp_path / "out-1").iterdir())
    assert len(names) == (4 if output is Output.PARQUET else 3)
    for name in names:
        assert (tmp_path / "out-1" / name).read_bytes() == (tmp_path / "out-2" / name).read_bytes(), name


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "export.csv").write_bytes(csv_bytes([row(1)]))
    with pytest.raises(FileExistsError, match=r"exists and is not an empty folder; remove it or name another --out$"):
        ingest(export_of(tmp_path / "export.csv"), tmp_path, Output.TSV, ONE_THREAD)
    (tmp_path / "out").mkdir()
    report = ingest(export_of(tmp_path / "export.csv"), tmp_path / "out", Output.TSV, ONE_THREAD)
    assert report.num_kept == 1


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "export.csv").write_bytes(csv_bytes([row("?"), row(1)]))
    with pytest.raises(TooManyRejectsError):
        ingest(export_of(tmp_path / "export.csv"), tmp_path / "out", Output.CSV, ONE_THREAD)
    assert [path.name for path in tmp_path.iterdir()] == ["export.csv"]


KILLED = """
import os, signal, sys
from pathlib import Path
from booru_embed_core.posts import ingest as module
from booru_embed_core.schema import Output
from booru_embed_core.settings import DuckdbSettings, PostsSettings

def die(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(module, sys.argv[1], die)
posts = PostsSettings(export=(sys.argv[2] + "/export.csv",))
module.ingest(posts, Path(sys.argv[2], "out"), Output.TSV, DuckdbSettings())
"""


@pytest.mark.slow
def test_what_a_killed_run_leaves_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "export.csv").write_bytes(csv_bytes([row(number) for number in range(1000)]))
    for step in ("read_export", "write_text", "part_files"):
        ended = subprocess.run([sys.executable, "-c", KILLED, step, str(tmp_path)], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
        assert (tmp_path / ".out.booru-embed").is_dir()
    report = ingest(export_of(tmp_path / "export.csv"), tmp_path / "out", Output.TSV, ONE_THREAD)
    assert report.num_kept == 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.csv", "out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "danbooru-captions.tsv",
        "rejects.parquet",
        "report.json",
    ]


@pytest.mark.parametrize("output", Output)
def test_a_folder_that_was_written_is_an_export(tmp_path: Path, output: Output) -> None:
    (tmp_path / "export.csv").write_bytes(csv_bytes([row(1, "a b"), row(1), row("x"), row(2, "", artist="c")]))
    settings = export_of(tmp_path / "export.csv", max_rejected_share=0.5)
    ingest(settings, tmp_path / "made/first", output, ONE_THREAD)
    (tmp_path / "made/first/version.json").write_text("{}", encoding="utf-8")  # as the warehouse adds
    (tmp_path / "current").symlink_to("made/first")
    (tmp_path / "made/more.json").write_text(json.dumps(row(3)), encoding="utf-8")
    for folder, ids in (("current", [1, 2]), ("made", [1, 2, 3])):
        report = ingest(export_of(tmp_path / folder), tmp_path / f"{folder}-again", Output.PARQUET, ONE_THREAD)
        assert (report.num_read, report.num_kept) == (len(ids), len(ids))
        assert sorted(int(str(post["id"])) for post in read_rows(tmp_path / f"{folder}-again")) == ids


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "export.csv").write_bytes(csv_bytes([row(1)]))
    scratch = tmp_path / ".out.booru-embed"
    (scratch / "posts").mkdir(parents=True)
    guard = os.open(scratch, os.O_RDONLY)
    fcntl.flock(guard, fcntl.LOCK_EX)
    with pytest.raises(ForeignPathError, match=r"/\.out\.booru-embed: another process writes it; .* another --out$"):
        ingest(export_of(tmp_path / "export.csv"), tmp_path / "out", Output.TSV, ONE_THREAD)
    assert (scratch / "posts").is_dir()
    os.close(guard)
