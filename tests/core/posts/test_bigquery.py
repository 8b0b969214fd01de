"""The BigQuery source against a real emulator, through connections that break, and against refusals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud.bigquery_storage_v1 import types

from booru_embed_core.posts import bigquery
from booru_embed_core.posts.bigquery import (
    DANBOORU_TABLE,
    ROW_RESTRICTION,
    BigQueryError,
    BigQueryUnreachableError,
    TableReport,
    read_start_sorted,
    read_table,
    read_table_sorted,
    table_state,
)
from booru_embed_core.posts.read_posts import count_wanted
from booru_embed_core.schema import FLAG_COLUMNS, POST_COLUMNS, TAG_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings
from tests.core.export_helpers import ONE_THREAD
from tests.emulator_helpers import Emulator, access_at, answering_server, cutting_proxy, load_table, scripted_server

NUM_ROWS = 20_000
HOSTILE = ['1girl "quoted" a,b', "null \\N NaN", "\ufeffbom z\u200bw \u05d0\u05d1", "\t tab\u3000wide", "", None]


def table_row(post_id: int) -> dict[str, object]:
    tags = {name: f"{name}_{post_id % 97} " + "tag_of_some_length " * 3 + f"n{post_id}" for name in TAG_COLUMNS}
    tags["tag_string_artist"] = HOSTILE[post_id % len(HOSTILE)]
    flags = {name: post_id % (20 + index) == 0 or None for index, name in enumerate(FLAG_COLUMNS)}
    if post_id % 2:  # a flag that is not set is false in one half of the rows and NULL in the other
        flags = {name: bool(flag) for name, flag in flags.items()}
    return {"id": post_id, "rating": "gsqe"[post_id % 4], "score": post_id % 300 - 20, "source": "x", **tags, **flags}


def is_wanted(row: dict[str, object]) -> bool:
    return not any(row[name] for name in FLAG_COLUMNS)


@pytest.fixture(scope="module")
def danbooru(emulator: Emulator) -> Emulator:
    """The emulator with `NUM_ROWS` posts in Danbooru's table."""
    load_table(emulator, DANBOORU_TABLE, [table_row(post_id) for post_id in range(1, NUM_ROWS + 1)])
    return emulator


def read_at(port: int, out_dir: Path, **options: object) -> TableReport:
    out_dir.mkdir(exist_ok=True)
    with access_at(port) as access:
        return read_table(DANBOORU_TABLE, out_dir, access, **options)


def rows_in(out_dir: Path, report: TableReport) -> list[dict[str, object]]:
    names = [name for stream in report.streams for name in stream.parts]
    assert sorted(file.name for file in out_dir.iterdir()) == sorted(names)
    return [row for name in names for row in pq.read_table(out_dir / name).to_pylist()]


def wanted_rows() -> list[dict[str, object]]:
    rows = (table_row(post_id) for post_id in range(1, NUM_ROWS + 1))
    return [{name: row[name] for name in POST_COLUMNS} for row in rows if is_wanted(row)]


def by_id(row: dict[str, object]) -> int:
    assert isinstance(row["id"], int)
    return row["id"]


def test_the_wanted_columns_of_the_wanted_rows_come_once_each(danbooru: Emulator, tmp_path: Path) -> None:
    report = read_at(danbooru.grpc_port, tmp_path / "out", num_streams=3)
    wanted = wanted_rows()
    assert 16_000 < len(wanted) < NUM_ROWS
    rows = rows_in(tmp_path / "out", report)
    assert sorted(rows, key=by_id) == wanted
    assert {by_id(row) % 2 for row in rows} == {0, 1}  # with flags that are false, and that are NULL
    assert len(report.streams) == 3
    assert report.num_rows == sum(stream.num_rows for stream in report.streams) == len(wanted)
    assert [stream.parts for stream in report.streams] == [
        (f"stream-{number:03d}-part-00000.parquet",) for number in range(3)
    ]
    assert all(stream.num_resumed == 0 for stream in report.streams)


def test_streams_that_are_cut_lose_no_row_and_repeat_none(
    danbooru: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bigquery, "_FIRST_WAIT_SECONDS", 0.05)
    whole = read_at(danbooru.grpc_port, tmp_path / "whole", num_streams=3)
    budgets = [700_000, 1_000_000, 900_001, 1_200_003]
    with cutting_proxy(danbooru.grpc_port, budgets) as proxy:
        cut = read_at(proxy.port, tmp_path / "cut", num_streams=3)
    assert proxy.num_cut == len(budgets)
    assert sum(stream.num_resumed for stream in cut.streams) >= len(budgets)
    ids = [by_id(row) for row in rows_in(tmp_path / "cut", cut)]
    assert len(ids) == len(set(ids)) == whole.num_rows == len(wanted_rows())
    for name in (name for stream in whole.streams for name in stream.parts):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_restriction_is_sent_to_the_table(danbooru: Emulator, tmp_path: Path) -> None:
    report = read_at(danbooru.grpc_port, tmp_path / "out", row_restriction="is_deleted = false and rating = 'e'")
    rows = rows_in(tmp_path / "out", report)
    assert {row["rating"] for row in rows} == {"e"}
    assert len(rows) == sum(table_row(i)["rating"] == "e" and i % 20 != 0 for i in range(1, NUM_ROWS + 1))


def test_a_table_without_a_fitting_row_is_an_error(danbooru: Emulator, tmp_path: Path) -> None:
    with pytest.raises(BigQueryError, match="no row matches 'score > 1000'"):
        read_at(danbooru.grpc_port, tmp_path, row_restriction="score > 1000")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_table_is_an_error(danbooru: Emulator, tmp_path: Path) -> None:
    with (
        access_at(danbooru.grpc_port) as access,
        pytest.raises(
            BigQueryError, match=r"danbooru1\.danbooru_public\.pots: no such table .* correct the table"
        ) as raised,
    ):
        read_table("danbooru1.danbooru_public.pots", tmp_path, access)
    assert "\n" not in str(raised.value)


def session_of(num_streams: int) -> bytes:
    schema = pa.schema([pa.field(name, pa.int64()) for name in POST_COLUMNS])
    return types.ReadSession.serialize(
        types.ReadSession(
            arrow_schema=types.ArrowSchema(serialized_schema=schema.serialize().to_pybytes()),
            streams=[
                types.ReadStream(name=f"projects/p/locations/l/sessions/s/streams/{n}") for n in range(num_streams)
            ],
        )
    )


def page_of(ids: list[int], row_count: int | None = None) -> bytes:
    batch = pa.RecordBatch.from_pydict(dict.fromkeys(POST_COLUMNS, ids))
    content = types.ArrowRecordBatch(serialized_record_batch=batch.serialize().to_pybytes())
    count = len(ids) if row_count is None else row_count
    return types.ReadRowsResponse.serialize(types.ReadRowsResponse(arrow_record_batch=content, row_count=count))


def no_rows(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    return iter(())


def test_a_missing_permission_is_an_error_that_names_the_project(tmp_path: Path) -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "bigquery.readsessions.create denied\nmore")
        raise AssertionError

    with (
        scripted_server(refuse, no_rows) as port,
        pytest.raises(BigQueryError, match=r"project 'reader' may not read it .*Read Session User") as raised,
    ):
        read_at(port, tmp_path)
    assert "\n" not in str(raised.value)


def test_a_stream_that_gives_nothing_again_and_again_ends_all_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bigquery, "_MAX_WAIT_SECONDS", 0.01)
    offsets = []

    def first_rows_only(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        asked = types.ReadRowsRequest.deserialize(request)
        if asked.read_stream.endswith("/1"):
            yield page_of([9])
            while context.is_active():
                yield page_of([])
        offsets.append(asked.offset)
        if asked.offset < 4:
            yield page_of([asked.offset, asked.offset + 1])
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    with (
        scripted_server(lambda request, context: session_of(2), first_rows_only) as port,
        pytest.raises(BigQueryUnreachableError, match=r"streams/0: broke 8 times in a row at row 4 \(503 gone\)"),
    ):
        read_at(port, tmp_path)
    assert offsets == [0, 2, *[4] * 8]
    assert list(tmp_path.iterdir()) == []


def test_a_page_with_other_rows_than_it_says_is_an_error(tmp_path: Path) -> None:
    def wrong(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield page_of([1, 2], row_count=3)

    with (
        scripted_server(lambda request, context: session_of(1), wrong) as port,
        pytest.raises(BigQueryError, match="announces 3 rows and holds 2"),
    ):
        read_at(port, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_parts_from_before_are_never_mixed_with_new_ones(tmp_path: Path) -> None:
    (tmp_path / "stream-009-part-00000.parquet").touch()
    with access_at(1) as access, pytest.raises(BigQueryError, match="already holds parts of a table"):
        read_table(DANBOORU_TABLE, tmp_path, access)


@pytest.mark.parametrize("table", ["posts", "a.b", "danbooru1.danbooru_public.posts where 1", "a.b/../c.d", ""])
def test_what_is_no_table_name_is_refused(table: str, tmp_path: Path) -> None:
    with access_at(1) as access, pytest.raises(BigQueryError, match=r"write it as project\.dataset\.table"):
        read_table(table, tmp_path, access)


def test_the_state_of_a_table_changes_with_its_rows(emulator: Emulator) -> None:
    table = "danbooru1.states.posts"
    load_table(emulator, table, [table_row(1), table_row(20)])
    with access_at(emulator.grpc_port, emulator.rest_port) as access:
        before = table_state(table, access)
        assert before == table_state(table, access)
        assert (before.table, before.num_rows) == (table, 2)
        changed = datetime.fromisoformat(before.last_modified)
        assert timedelta() <= datetime.now(UTC) - changed < timedelta(hours=1)
        load_table(emulator, table, [table_row(3)])
        after = table_state(table, access)
    # The emulator leaves the time as it was; Google changes it.
    assert (after.table, after.num_rows) == (table, 3)


def test_a_table_that_cannot_be_looked_at_is_an_error(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with access_at(emulator.grpc_port, emulator.rest_port) as access:
        with pytest.raises(BigQueryError, match=r"no\.such\.table: no such table .*; correct the table's name"):
            table_state("no.such.table", access)
        with pytest.raises(BigQueryError, match=r"write it as project\.dataset\.table"):
            table_state("posts", access)
    monkeypatch.setattr(bigquery, "_REST_TIMEOUT_SECONDS", 0.2)
    no_answer = pytest.raises(BigQueryUnreachableError, match=r"no answer to project 'reader' .*network")
    with access_at(1, 1) as access, no_answer:
        table_state(DANBOORU_TABLE, access)


def test_a_refusal_and_a_view_are_told_apart() -> None:
    def answer(path: str) -> tuple[int, object]:
        return (
            (200, {"type": "VIEW"}) if "/tables/view?" in path else (403, {"error": {"message": "tables.get denied"}})
        )

    with answering_server(answer) as port, access_at(1, port) as access:
        with pytest.raises(BigQueryError, match=r"project 'reader' may not read it .*tables.get denied.*role"):
            table_state(DANBOORU_TABLE, access)
        with pytest.raises(BigQueryError, match=r"a\.b\.view: has no rows itself; name a table"):
            table_state("a.b.view", access)


def test_rows_are_sorted_the_same_way_whatever_the_streams_and_threads(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = "danbooru1.shuffled.posts"
    ids = np.random.default_rng(7).permutation(4_000).tolist()
    rows = [table_row(post_id) for post_id in [*ids, *ids[:500]]]
    for index, row in enumerate(rows[4_000:]):
        row["score"] = index  # the id is there twice, with another score
    load_table(emulator, table, rows)
    found = []
    with access_at(emulator.grpc_port) as access:
        for number, (num_streams, threads) in enumerate([(1, 1), (3, 1), (4, 2)]):
            monkeypatch.setattr(bigquery, "NUM_STREAMS", num_streams)
            folder = tmp_path / f"id={number} [0-9]"
            folder.mkdir()
            report = read_table_sorted(table, folder / "posts.parquet", access, DuckdbSettings(threads=threads), folder)
            assert len(report.streams) == num_streams
            assert [file.name for file in folder.iterdir()] == ["posts.parquet"]
            found.append(pq.read_table(folder / "posts.parquet").to_pylist())
    assert found[0] == found[1] == found[2]
    wanted = [{name: row[name] for name in POST_COLUMNS} for row in rows if is_wanted(row)]
    assert [row["id"] for row in found[0]] == sorted(row["id"] for row in wanted)
    assert sorted(map(repr, found[0])) == sorted(map(repr, wanted))


@pytest.mark.parametrize(
    ("limit", "min_score", "ranges", "last"),
    [
        (80, None, ["id <= 160"], 160),
        (40, 270, ["id <= 80", "id > 80 and id <= 320", "id > 320 and id <= 1280", "id > 1280 and id <= 5120"], 5120),
        (2**28, None, ["id <= 536870912", "(id > 536870912 or id is null)"], NUM_ROWS),
        (2**40, None, [""], NUM_ROWS),
    ],
)
def test_a_limit_reads_no_further_than_the_range_that_fills_it(
    danbooru: Emulator, tmp_path: Path, limit: int, min_score: int | None, ranges: list[str], last: int
) -> None:
    settings = PostsSettings(min_score=min_score, max_rejected_share=0.5, tag_separator=" ")
    file, wanted = tmp_path / "posts.parquet", wanted_rows()

    def count(files: Sequence[Path]) -> int:
        return count_wanted(files, settings, settings, ONE_THREAD, tmp_path)

    with access_at(danbooru.grpc_port) as access:
        reports = read_start_sorted(DANBOORU_TABLE, file, access, ONE_THREAD, tmp_path, limit, count)
    found = [report.row_restriction.removeprefix(ROW_RESTRICTION).removeprefix(" and ") for report in reports]
    assert found == ranges
    rows = pq.read_table(file).to_pylist()
    assert rows == wanted[: len(rows)]
    assert sum(report.num_rows for report in reports) == len(rows)
    assert len(rows) == sum(by_id(row) <= last for row in wanted)


def test_a_limit_of_a_table_without_a_fitting_row_is_an_error(emulator: Emulator, tmp_path: Path) -> None:
    load_table(emulator, "danbooru1.deleted.posts", [table_row(20), table_row(40)])
    with (
        access_at(emulator.grpc_port) as access,
        pytest.raises(BigQueryError, match=r"no row matches '\(is_deleted is null or"),
    ):
        read_start_sorted(
            "danbooru1.deleted.posts", tmp_path / "posts.parquet", access, ONE_THREAD, tmp_path, 2**28, lambda files: 0
        )
    assert not (tmp_path / "posts.parquet").exists()
