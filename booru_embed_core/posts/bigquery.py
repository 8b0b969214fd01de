"""Reads the public BigQuery table of posts into Parquet parts with the Storage Read API: no query job, no CSV.

A read session fixes a snapshot of the table and distributes its rows over streams. Each stream has a thread and parts
of its own, which are written as its pages arrive. If a connection breaks, the stream resumes at the first row that is
not written yet: no row is lost, and none comes twice.

The result is an export, not the ``posts`` table. Its values are those of the table, nulls included, and they are
validated when the parts are read like any other Parquet export. BigQuery chooses the stream of a row.

Credentials and Google's client are in ``bigquery_access.py``.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa

from booru_embed_core.errors import first_line
from booru_embed_core.posts.bigquery_access import (
    Access,
    BigQueryError,
    BigQueryUnreachableError,
    explained,
)
from booru_embed_core.posts.database import connect, source_literal, target_literal
from booru_embed_core.posts.parquet_parts import PartsWriter
from booru_embed_core.schema import FLAG_COLUMNS, POST_COLUMNS
from booru_embed_core.settings import DuckdbSettings

# isort: split
# Without the extra, the import of bigquery_access has failed by now and has named the extra.
import grpc
import requests
from google.api_core import exceptions as api_errors
from google.api_core.gapic_v1.routing_header import to_grpc_metadata
from google.api_core.retry import Retry, if_exception_type
from google.cloud.bigquery_storage_v1 import types
from google.cloud.bigquery_storage_v1.services.big_query_read import BigQueryReadClient

DANBOORU_TABLE: Final = "danbooru1.danbooru_public.posts"
ROW_RESTRICTION: Final = " and ".join(f"({flag} is null or {flag} = false)" for flag in FLAG_COLUMNS)
"""A flag that is NULL is false, as in a file. The service leaves out a row for which ``is_deleted = false`` is NULL."""
NUM_STREAMS: Final = 4
START_IDS_PER_POST: Final = 2
"""Ids of the first range for each post of a limit: many old posts are deleted."""
START_GROWTH: Final = 4
GROUP_ROWS: Final = 32_768
"""Each stream holds one row group in memory, and copies of it while it is written."""

_TABLE: Final = re.compile(r"([a-z][\w:.-]*)\.(\w+)\.([^\s./]+)")
_BROKEN: Final = (
    api_errors.ServiceUnavailable,
    api_errors.InternalServerError,
    api_errors.Unknown,
    api_errors.Aborted,
    api_errors.DeadlineExceeded,
    api_errors.ResourceExhausted,
)
"""Errors of a broken connection, a restarted server or an exhausted quota; any other error is final."""
_ALL_IDS: Final = 1 << 31
"""Above all ids of Danbooru; a table with ids beyond is read to its end in one last range."""
_MAX_FRUITLESS_ATTEMPTS: Final = 8
_MAX_WAIT_SECONDS: Final = 30.0
_FIRST_WAIT_SECONDS: Final = 0.25
_SESSION_TIMEOUT_SECONDS: Final = 60.0
_REST_TIMEOUT_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class TableState:
    """What changes when a table changes."""

    table: str
    last_modified: str
    """ISO 8601, UTC, to the millisecond."""
    num_rows: int
    """All rows, including those that a restriction leaves out."""


@dataclass(frozen=True, kw_only=True)
class StreamCounts:
    """Counts of one stream."""

    parts: tuple[str, ...]
    num_rows: int
    num_resumed: int
    """Times that the stream was resumed after its connection broke."""


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """Counts of a table, with its streams in the session's order."""

    table: str
    row_restriction: str
    num_rows: int
    streams: tuple[StreamCounts, ...]


def table_state(table: str, access: Access) -> TableState:
    """Last change and number of rows of `table`, ``project.dataset.table``; no row is read.

    Raises:
        BigQueryError: no such table, no permission, no answer, or a view.
    """
    url = f"{access.rest_url}/bigquery/v2/{quote(_table_path(table))}"

    def ask() -> Any:
        answer = access.http.get(url, params={"fields": "lastModifiedTime,numRows"}, timeout=_REST_TIMEOUT_SECONDS)
        if not answer.ok:
            raise api_errors.from_http_response(answer)  # type: ignore[no-untyped-call]
        return answer.json()

    broken = if_exception_type(*_BROKEN, requests.ConnectionError, requests.Timeout)
    with explained(table, access.project):
        values = Retry(predicate=broken, timeout=_REST_TIMEOUT_SECONDS)(ask)()
    try:
        changed, num_rows = int(values["lastModifiedTime"]), int(values["numRows"])
    except (KeyError, TypeError, ValueError):
        raise BigQueryError(f"{table}: has no rows itself; name a table, not a view") from None
    at = datetime.fromtimestamp(changed // 1000, UTC).replace(microsecond=changed % 1000 * 1000)
    return TableState(table=table, last_modified=at.isoformat(timespec="milliseconds"), num_rows=num_rows)


def read_table_sorted(
    table: str, file: Path, access: Access, duckdb_settings: DuckdbSettings, temp_dir: Path
) -> TableReport:
    """The report on `table`, whose rows are written to the Parquet `file` by ascending id; see `read_table`.

    Streams have no fixed order; sorting makes the posts depend on the rows alone. `duckdb_settings` bound its memory.
    """
    parts_dir = temp_dir / "streams"
    parts_dir.mkdir()
    report = read_table(table, parts_dir, access, num_streams=NUM_STREAMS)
    _sort(parts_dir, file, duckdb_settings, temp_dir)
    return report


def read_start_sorted(
    table: str,
    file: Path,
    access: Access,
    duckdb_settings: DuckdbSettings,
    temp_dir: Path,
    limit: int,
    count_posts: Callable[[Sequence[Path]], int],
) -> list[TableReport]:
    """The reports on the first ranges of ids of `table`, whose rows are written to `file` as by `read_table_sorted`.

    Ranges are read from the smallest id on, each ending `START_GROWTH` times as far as the one before, until
    `count_posts` has found `limit` posts in their parts or the table ends.
    """
    parts_dir = temp_dir / "streams"
    parts_dir.mkdir()
    reports: list[TableReport] = []
    num_posts = 0
    for ids in _id_ranges(limit):
        folder = parts_dir / str(len(reports))
        folder.mkdir()
        reports.append(_read(table, folder, access, f"{ROW_RESTRICTION}{ids}", NUM_STREAMS))
        num_posts += count_posts(sorted(folder.iterdir()))
        if num_posts >= limit:
            break
    if not any(report.num_rows for report in reports):
        raise _no_row(table, ROW_RESTRICTION)
    _sort(parts_dir, file, duckdb_settings, temp_dir)
    return reports


def _id_ranges(limit: int) -> Iterator[str]:
    """Conditions to add to a restriction, one for each range of ids; every row fits exactly one."""
    above, last = "", START_IDS_PER_POST * limit
    while last < _ALL_IDS:
        yield f"{above} and id <= {last}"
        above, last = f" and id > {last}", START_GROWTH * last
    yield above and f" and ({above.removeprefix(' and ')} or id is null)"


def _sort(parts_dir: Path, file: Path, duckdb_settings: DuckdbSettings, temp_dir: Path) -> None:
    """Writes all rows of the parts in and below `parts_dir` to `file`, and removes the folder."""
    parts = ", ".join(map(source_literal, sorted(parts_dir.rglob("stream-*.parquet"))))
    pa.default_memory_pool().release_unused()  # 0.2 GB that DuckDB's memory would come on top of
    # The hash orders rows with the same id.
    rows = f"select * from read_parquet([{parts}], hive_partitioning = false)"  # noqa: S608
    query = f"{rows} order by id, hash({', '.join(POST_COLUMNS)})"
    with connect(duckdb_settings, temp_dir) as connection:
        connection.execute(f"copy ({query}) to {target_literal(file)} (format parquet, row_group_size {GROUP_ROWS})")
    shutil.rmtree(parts_dir)


def read_table(
    table: str,
    out_dir: Path,
    access: Access,
    *,
    row_restriction: str = ROW_RESTRICTION,
    num_streams: int = NUM_STREAMS,
) -> TableReport:
    """The report on `table`, ``project.dataset.table``, whose rows are written to ``stream-*.parquet`` in `out_dir`.

    Parts hold `POST_COLUMNS` with the table's own types. BigQuery may open fewer streams than `num_streams`. A failed
    read leaves nothing in `out_dir`.

    Raises:
        BigQueryError: no permission; no such table, column or row; older parts in `out_dir`; a stream that breaks
            repeatedly without a row in between.
    """
    if next(out_dir.glob("stream-*.parquet"), None):
        raise BigQueryError(f"{out_dir}: already holds parts of a table; remove them or read into an empty folder")
    report = _read(table, out_dir, access, row_restriction, num_streams)
    if report.num_rows == 0:
        for file in out_dir.glob("stream-*.parquet"):
            file.unlink()
        raise _no_row(table, row_restriction)
    return report


def _read(table: str, out_dir: Path, access: Access, row_restriction: str, num_streams: int) -> TableReport:
    """See `read_table`; a table without rows is no error here."""
    path = _table_path(table)
    with explained(table, access.project):
        session = _open_session(access, path, row_restriction, num_streams)
        streams = _read_streams(access.storage, session, out_dir) if session.streams else ()
    return TableReport(
        table=table,
        row_restriction=row_restriction,
        num_rows=sum(stream.num_rows for stream in streams),
        streams=tuple(streams),
    )


def _no_row(table: str, row_restriction: str) -> BigQueryError:
    return BigQueryError(f"{table}: no row matches {row_restriction!r}; correct the table's name or the restriction")


def _table_path(table: str) -> str:
    match = _TABLE.fullmatch(table)
    if match is None:
        raise BigQueryError(f"{table!r}: names no table; write it as project.dataset.table, such as {DANBOORU_TABLE}")
    project, dataset, name = match.groups()
    return f"projects/{project}/datasets/{dataset}/tables/{name}"


def _open_session(access: Access, path: str, row_restriction: str, num_streams: int) -> types.ReadSession:
    wanted = types.ReadSession(
        table=path,
        data_format=types.DataFormat.ARROW,
        read_options=types.ReadSession.TableReadOptions(
            selected_fields=list(POST_COLUMNS),
            row_restriction=row_restriction,
            arrow_serialization_options=types.ArrowSerializationOptions(
                buffer_compression=types.ArrowSerializationOptions.CompressionCodec.LZ4_FRAME
            ),
        ),
    )
    retry = Retry(predicate=if_exception_type(*_BROKEN), timeout=_SESSION_TIMEOUT_SECONDS)
    return access.storage.create_read_session(
        parent=f"projects/{access.project}", read_session=wanted, max_stream_count=num_streams, retry=retry
    )


def _read_streams(client: BigQueryReadClient, session: types.ReadSession, out_dir: Path) -> Sequence[StreamCounts]:
    """The counts of all streams, read in parallel; the first failure ends them all and removes the parts."""
    schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
    readers = [_StreamReader(client, stream.name, schema) for stream in session.streams]
    columns = pa.schema([schema.field(name) for name in POST_COLUMNS])
    writers = [PartsWriter(out_dir, columns, f"stream-{index:03d}-part", GROUP_ROWS) for index in range(len(readers))]
    with ExitStack() as unless_done:
        unless_done.callback(_remove_parts, writers)
        with ThreadPoolExecutor(len(readers), thread_name_prefix="bigquery") as pool:
            futures = [pool.submit(_copy, *pair) for pair in zip(readers, writers, strict=True)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                for reader in readers:
                    reader.stop()
            # A failed stream stops the others, which then raise nothing: the error here is that of the failed one.
            counts = [future.result() for future in futures]
        unless_done.pop_all()
    return counts


def _remove_parts(writers: Sequence[PartsWriter]) -> None:
    for writer in writers:
        for file in writer.paths:
            file.unlink(missing_ok=True)


def _copy(reader: _StreamReader, writer: PartsWriter) -> StreamCounts:
    with writer:
        for batch in reader.batches():
            writer.add(batch.select(list(POST_COLUMNS)))
    return StreamCounts(
        parts=tuple(file.name for file in writer.paths), num_rows=writer.num_rows, num_resumed=reader.num_resumed
    )


class _StreamReader:
    """The rows of one stream, each exactly once."""

    def __init__(self, client: BigQueryReadClient, name: str, schema: pa.Schema) -> None:
        self.num_resumed = 0
        self._client = client
        self._name = name
        self._schema = schema
        self._offset = 0
        self._stopped = Event()
        self._call: Any = None

    def stop(self) -> None:
        """Ends `batches`, even while it waits for a page; does nothing once it has ended."""
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The stream's rows in order; after a break they resume where they ended."""
        num_fruitless = 0
        while True:
            offset = self._offset
            try:
                yield from self._pages()
                return
            except _BROKEN as error:
                num_fruitless = 0 if self._offset > offset else num_fruitless + 1
                if num_fruitless == _MAX_FRUITLESS_ATTEMPTS:
                    raise BigQueryUnreachableError(
                        f"{self._name}: broke {num_fruitless} times in a row at row {self._offset} "
                        f"({first_line(error)}); check the network and read again"
                    ) from error
            except api_errors.Cancelled:
                if not self._stopped.is_set():
                    raise
            if self._stopped.wait(min(_FIRST_WAIT_SECONDS * 2**num_fruitless, _MAX_WAIT_SECONDS)):
                return
            self.num_resumed += 1

    def _pages(self) -> Iterator[pa.RecordBatch]:
        request = types.ReadRowsRequest(read_stream=self._name, offset=self._offset)
        route = to_grpc_metadata((("read_stream", self._name),))  # type: ignore[no-untyped-call]
        # The bare call: the client's method would wait for the first page here, where `stop` cannot reach it.
        read_rows: Any = self._client.transport.read_rows
        self._call = read_rows(request, metadata=(route,))
        if self._stopped.is_set():  # `stop` came before the call existed
            self._call.cancel()
        try:
            for page in self._call:
                batch = self._decoded(page)
                # Before the yield: a page that was handed over is never read again.
                self._offset += len(batch)
                yield batch
        except grpc.RpcError as error:
            raise api_errors.from_grpc_error(error) from error  # type: ignore[no-untyped-call]

    def _decoded(self, page: types.ReadRowsResponse) -> pa.RecordBatch:
        try:
            batch = pa.ipc.read_record_batch(
                pa.py_buffer(page.arrow_record_batch.serialized_record_batch), self._schema
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise BigQueryError(
                f"{self._name}: the page at row {self._offset} is not an Arrow batch ({first_line(error)}); read again"
            ) from error
        if len(batch) != page.row_count:
            raise BigQueryError(
                f"{self._name}: the page at row {self._offset} announces {page.row_count} rows and holds {len(batch)}; "
                "read again"
            )
        return batch
