"""The BigQuery source against a real emulator, through connections that break, and against refusals."""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import google.cloud.bigquery as bq
import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from emulator_helpers import (
    ENVIRONMENT,
    PROJECT,
    Emulator,
    client_at,
    cutting_proxy,
    running_emulator,
    scripted_server,
)
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.bigquery_storage_v1 import types

from booru_embed_core.posts import bigquery
from booru_embed_core.posts.bigquery import DANBOORU_TABLE, BigQueryError, TableReport, read_table
from booru_embed_core.schema import POST_COLUMNS, TAG_COLUMNS

NUM_ROWS = 20_000
FLAGS = ("is_deleted", "is_banned", "is_flagged")
HOSTILE = ['1girl "quoted" a,b', "null \\N NaN", "\ufeffbom z\u200bw \u05d0\u05d1", "\t tab\u3000wide", "", None]
REQUIRE_VARIABLE = "BOORU_EMBED_REQUIRE_EMULATOR"


def table_row(post_id: int) -> dict[str, object]:
    tags = {name: f"{name}_{post_id % 97} " + "tag_of_some_length " * 3 + f"n{post_id}" for name in TAG_COLUMNS}
    tags["tag_string_artist"] = HOSTILE[post_id % len(HOSTILE)]
    flags = {name: post_id % (20 + place) == 0 for place, name in enumerate(FLAGS)}
    return {"id": post_id, "rating": "gsqe"[post_id % 4], "score": post_id % 300 - 20, "source": "x", **tags, **flags}


def is_wanted(row: dict[str, object]) -> bool:
    return not any(row[name] for name in FLAGS)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """The emulator with `NUM_ROWS` posts in Danbooru's table."""
    if not (ENVIRONMENT / ".installed").exists():
        if os.environ.get(REQUIRE_VARIABLE):
            pytest.fail(f"{ENVIRONMENT} is missing and {REQUIRE_VARIABLE} is set; run make emulator")
        pytest.skip(f"{ENVIRONMENT} is missing; run make emulator")
    with running_emulator(tmp_path_factory.mktemp("emulator") / "emulator.log") as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NO_PROXY", "127.0.0.1")
            fill_table(running)
        yield running


def fill_table(running: Emulator) -> None:
    kinds = {"id": "INTEGER", "score": "INTEGER", **dict.fromkeys(FLAGS, "BOOLEAN")}
    schema = [bq.SchemaField(name, kinds.get(name, "STRING")) for name in table_row(1)]
    endpoint = ClientOptions(api_endpoint=f"http://127.0.0.1:{running.rest_port}")
    client = bq.Client(project=PROJECT, credentials=AnonymousCredentials(), client_options=endpoint)
    try:
        client.create_dataset("danbooru_public")
        client.create_table(bq.Table(DANBOORU_TABLE, schema=schema))
        rows = [table_row(post_id) for post_id in range(1, NUM_ROWS + 1)]
        client.load_table_from_json(rows, DANBOORU_TABLE, job_config=bq.LoadJobConfig(schema=schema)).result()
    finally:
        client.close()


def read_at(port: int, out_dir: Path, **options: object) -> TableReport:
    out_dir.mkdir(exist_ok=True)
    with client_at(port) as client:
        return read_table(DANBOORU_TABLE, out_dir, "reader", client=client, **options)


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


def test_the_wanted_columns_of_the_wanted_rows_come_once_each(emulator: Emulator, tmp_path: Path) -> None:
    report = read_at(emulator.grpc_port, tmp_path / "out", num_streams=3)
    wanted = wanted_rows()
    assert 16_000 < len(wanted) < NUM_ROWS
    rows = rows_in(tmp_path / "out", report)
    assert sorted(rows, key=by_id) == wanted
    assert len(report.streams) == 3
    assert report.num_rows == sum(stream.num_rows for stream in report.streams) == len(wanted)
    assert [stream.parts for stream in report.streams] == [
        (f"stream-{number:03d}-part-00000.parquet",) for number in range(3)
    ]
    assert all(stream.num_resumed == 0 for stream in report.streams)


def test_streams_that_are_cut_lose_no_row_and_repeat_none(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bigquery, "_FIRST_WAIT_SECONDS", 0.05)
    whole = read_at(emulator.grpc_port, tmp_path / "whole", num_streams=3)
    budgets = [700_000, 1_000_000, 900_001, 1_200_003]
    with cutting_proxy(emulator.grpc_port, budgets) as proxy:
        cut = read_at(proxy.port, tmp_path / "cut", num_streams=3)
    assert proxy.num_cut == len(budgets)
    assert sum(stream.num_resumed for stream in cut.streams) >= len(budgets)
    ids = [by_id(row) for row in rows_in(tmp_path / "cut", cut)]
    assert len(ids) == len(set(ids)) == whole.num_rows == len(wanted_rows())
    for name in (name for stream in whole.streams for name in stream.parts):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_restriction_is_sent_to_the_table(emulator: Emulator, tmp_path: Path) -> None:
    report = read_at(emulator.grpc_port, tmp_path / "out", row_restriction="is_deleted = false and rating = 'e'")
    rows = rows_in(tmp_path / "out", report)
    assert {row["rating"] for row in rows} == {"e"}
    assert len(rows) == sum(table_row(i)["rating"] == "e" and i % 20 != 0 for i in range(1, NUM_ROWS + 1))


def test_a_table_without_a_fitting_row_is_an_error(emulator: Emulator, tmp_path: Path) -> None:
    with pytest.raises(BigQueryError, match="no row fits 'score > 1000'"):
        read_at(emulator.grpc_port, tmp_path, row_restriction="score > 1000")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_table_is_an_error(emulator: Emulator, tmp_path: Path) -> None:
    with (
        client_at(emulator.grpc_port) as client,
        pytest.raises(
            BigQueryError, match=r"danbooru1\.danbooru_public\.pots: is not there .* correct the table"
        ) as raised,
    ):
        read_table("danbooru1.danbooru_public.pots", tmp_path, "reader", client=client)
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
        pytest.raises(BigQueryError, match=r"streams/0: broke 8 times in a row at row 4 \(503 gone\)"),
    ):
        read_at(port, tmp_path)
    assert offsets == [0, 2, *[4] * 8]
    assert list(tmp_path.iterdir()) == []


def test_a_page_with_other_rows_than_it_says_is_an_error(tmp_path: Path) -> None:
    def wrong(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield page_of([1, 2], row_count=3)

    with (
        scripted_server(lambda request, context: session_of(1), wrong) as port,
        pytest.raises(BigQueryError, match="says 3 rows and holds 2"),
    ):
        read_at(port, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_parts_from_before_are_never_mixed_with_new_ones(tmp_path: Path) -> None:
    (tmp_path / "stream-009-part-00000.parquet").touch()
    with pytest.raises(BigQueryError, match="holds the parts of a table already"):
        read_table(DANBOORU_TABLE, tmp_path, "reader")


@pytest.mark.parametrize("table", ["posts", "a.b", "danbooru1.danbooru_public.posts where 1", "a.b/../c.d", ""])
def test_what_is_no_table_name_is_refused(table: str, tmp_path: Path) -> None:
    with pytest.raises(BigQueryError, match=r"write it as project\.dataset\.table"):
        read_table(table, tmp_path, "reader")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials, and no machine in Google's cloud."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "CLOUDSDK_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    return home


def test_missing_credentials_are_an_error_that_says_how_to_get_some(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(BigQueryError, match=r"no Google credentials .*gcloud auth application-default login") as raised:
        read_table(DANBOORU_TABLE, tmp_path, "reader")
    assert "\n" not in str(raised.value)


def test_credentials_without_a_project_are_an_error(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    (bare / "key.json").write_text(json.dumps(key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(bare / "key.json"))
    with pytest.raises(BigQueryError, match="no Google Cloud project to read with"):
        read_table(DANBOORU_TABLE, tmp_path)


def service_account(home: Path, monkeypatch: pytest.MonkeyPatch, token_port: int) -> None:
    """Lets Google's rules find the key of an account whose tokens come from this port."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {
        "type": "service_account",
        "project_id": "reader",
        "client_email": "someone@example.com",
        "private_key": private.decode(),
        "token_uri": f"http://127.0.0.1:{token_port}/token",
    }
    (home / "key.json").write_text(json.dumps(key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(home / "key.json"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_credentials_that_cannot_be_renewed_are_an_error(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    service_account(bare, monkeypatch, nobody)
    with pytest.raises(BigQueryError, match=r"Google refuses the credentials .*check the network") as raised:
        read_table(DANBOORU_TABLE, tmp_path)
    assert "\n" not in str(raised.value)


class TokenHandler(BaseHTTPRequestHandler):
    """Gives every account a token."""

    def do_POST(self) -> None:
        content = json.dumps({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_credentials_give_a_client_and_their_project(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), TokenHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        service_account(bare, monkeypatch, server.server_port)
        try:
            for named, wanted in ((None, "reader"), ("another", "another")):
                client, project = bigquery._connect(named)
                with client:
                    assert project == wanted
        finally:
            server.shutdown()
            thread.join()


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.bigquery_storage_v1", None)
    with pytest.raises(ImportError, match=r"pip install 'booru-embed\[bigquery\]'"):
        runpy.run_path(bigquery.__file__)
