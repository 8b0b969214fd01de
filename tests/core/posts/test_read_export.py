"""A BigQuery table as the export of the core and of the command line, from an emulator."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.cli.main import main
from booru_embed_core.posts import bigquery, bigquery_access
from booru_embed_core.posts.bigquery_access import Access
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.schema import FLAG_COLUMNS
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, read_rejects, read_rows, row
from tests.emulator_helpers import Emulator, access_at, load_table

TABLE = "danbooru1.exported.posts"
FIT_TABLE = "danbooru1.exported.fit_posts"
ROWS = [
    row(7, "a b"),
    row(3, "old", artist="x", rating="e"),
    row(9, "deleted"),
    row(3, "again", score=5),
    row(5, "c", rating="x"),
    row(1, 'b,"q"'),
]


@pytest.fixture
def projects(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The projects that asked for access; the emulator lets all in."""
    asked: list[str | None] = []

    @contextmanager
    def open_access(project: str | None = None) -> Iterator[Access]:
        asked.append(project)
        with access_at(emulator.grpc_port, emulator.rest_port) as access:
            yield access

    monkeypatch.setattr(bigquery_access, "open_access", open_access)
    return asked


def load_rows(emulator: Emulator, table: str, rows: list[dict[str, object]]) -> None:
    flags = dict.fromkeys(FLAG_COLUMNS, False)
    load_table(
        emulator, table, [{**one, **flags, "is_deleted": one["tag_string_general"] == "deleted"} for one in rows]
    )


def test_a_table_is_read_like_any_export(emulator: Emulator, projects: list[str | None], tmp_path: Path) -> None:
    load_rows(emulator, TABLE, ROWS)
    (tmp_path / "tags.csv").write_text("tag,category,aliases\nnew,0,old\n", encoding="utf-8")
    (tmp_path / "out").mkdir()
    settings = PostsSettings(
        bigquery_table=TABLE, bigquery_project="mine", aliases=Path("tags.csv"), max_rejected_share=0.5
    )
    report = read_export(settings, tmp_path, tmp_path / "out", ONE_THREAD, tmp_path)
    posts = read_rows(tmp_path / "out")
    assert [post["id"] for post in posts] == [1, 3, 7]
    assert posts[1] in (row(3, "new", artist="x", rating="e"), row(3, "again", score=5))
    assert (report.num_read, report.num_kept, report.num_duplicate, report.num_rejected) == (5, 3, 1, 1)
    assert [(reject["file"], reject["line"]) for reject in read_rejects(tmp_path / "out")] == [
        (f"{TABLE}.parquet", 3),
        (f"{TABLE}.parquet", 4),
    ]
    assert projects == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tags.csv"]


def test_the_command_reads_a_table(
    emulator: Emulator,
    projects: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    load_rows(emulator, FIT_TABLE, [one for one in ROWS if one["rating"] != "x"])
    arguments = ["--bigquery", FIT_TABLE, "--project", "mine", "--to", "tsv", "--ratings", "s", "--json"]
    monkeypatch.setattr(sys, "argv", ["booru-embed", "ingest", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out)["num_read"] == 4
    lines = (tmp_path / "out/danbooru-captions.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == ["1", "3", "7"]
    assert projects == ["mine"]


def limited_rows() -> list[dict[str, object]]:
    """600 posts with gaps between ids, in no order; some deleted, duplicate, invalid or without an id."""
    ids = [post_id for post_id in range(-3, 900) if post_id % 3] + [40_000, 3_000_000_000]
    rows = [row(post_id, f"tag_{post_id % 11}", score=post_id % 10) for post_id in ids]
    rows += [*(row(post_id, "again", score=9) for post_id in 2 * ids[::40]), row(None, "nameless")]
    for index, one in enumerate(rows):
        if index % 7 == 3:
            one["tag_string_general"] = "deleted"
        if index % 50 == 9:
            one["rating"] = "x"
    return [rows[index * 389 % len(rows)] for index in range(len(rows))]


@pytest.mark.parametrize("chosen", [{}, {"min_score": 9, "ratings": ("s", "q")}])
def test_a_limit_gives_the_posts_with_the_least_ids(
    emulator: Emulator,
    projects: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    chosen: dict[str, object],
) -> None:
    streamed: list[int] = []

    def counted(*arguments: Any) -> bigquery.TableReport:
        report = read_range(*arguments)
        streamed.append(report.num_rows)
        return report

    read_range = bigquery._read
    monkeypatch.setattr(bigquery, "_read", counted)
    table = f"danbooru1.exported.limited_{len(chosen)}"
    load_rows(emulator, table, limited_rows())

    def read(name: str, limit: int | None) -> tuple[PostsReport, list[dict[str, object]]]:
        (tmp_path / name).mkdir()
        settings = PostsSettings.model_validate(
            {"bigquery_table": table, "limit_posts": limit, "max_rejected_share": 0.5, **chosen}
        )
        report = read_export(settings, tmp_path, tmp_path / name, ONE_THREAD, tmp_path)
        return report, read_rows(tmp_path / name)

    whole, posts = read("whole", None)
    assert whole.num_duplicate > 0
    assert whole.num_rejected > 1
    assert streamed == [whole.num_read]
    for limit in (1, 20, len(posts) - 1, len(posts), len(posts) + 1):
        streamed.clear()
        report, found = read(str(limit), limit)
        assert report.num_read <= sum(streamed) <= whole.num_read * min(1.0, limit / 20)
        assert found == posts[:limit]
        assert report.num_kept == len(found)
        rejects = read_rejects(tmp_path / str(limit))
        assert rejects == read_rejects(tmp_path / "whole")[: len(rejects)]
        assert len(rejects) == report.num_duplicate + report.num_rejected
    assert report == whole
