"""Reads the public BigQuery table of posts into Parquet parts, by the Storage Read API: no query job, no CSV.

A read session fixes a snapshot of the table and deals its rows to streams. Each stream is read by a thread of its own
and written to parts of its own as its pages arrive. A stream whose connection breaks is asked for again from the first
row that was not written yet, so no row is lost and none comes twice.

What comes out is an export, not the ``posts`` table: values are as the table has them, nulls and all, and are looked
at when the parts are read like any other Parquet export. Which stream a row is in is BigQuery's choice.

Google's client is the extra ``bigquery``. Credentials are found by Google's own rules and never stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final

import pyarrow as pa

from booru_embed_core.posts.parts import PartsWriter
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import POST_COLUMNS

try:
    import google.auth
    import grpc
    from google.api_core import exceptions as api_errors
    from google.api_core.gapic_v1.routing_header import to_grpc_metadata
    from google.api_core.retry import Retry, if_exception_type
    from google.auth import exceptions as auth_errors
    from google.auth.transport.requests import Request
    from google.cloud.bigquery_storage_v1 import types

    # The client one level up has a reader of its own, which resumes without an end and hides the offset.
    from google.cloud.bigquery_storage_v1.services.big_query_read import BigQueryReadClient
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport
except ImportError as error:
    raise ImportError("Google's client is missing; pip install 'booru-embed[bigquery]'") from error

DANBOORU_TABLE: Final = "danbooru1.danbooru_public.posts"
ROW_RESTRICTION: Final = "is_deleted = false and is_banned = false and is_flagged = false"
NUM_STREAMS: Final = 4
GROUP_ROWS: Final = 32_768
"""Every stream holds a row group of posts at a time, and copies of it while that is written."""

_SCOPE: Final = "https://www.googleapis.com/auth/bigquery"
_TABLE: Final = re.compile(r"([a-z][\w:.-]*)\.(\w+)\.([^\s./]+)")
_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    # Without pings a connection that vanished without a word would be waited for until the call's deadline, a day.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
_BROKEN: Final = (
    api_errors.ServiceUnavailable,
    api_errors.InternalServerError,
    api_errors.Unknown,
    api_errors.Aborted,
    api_errors.DeadlineExceeded,
    api_errors.ResourceExhausted,
)
"""What a broken connection, a restarted server or a full quota ends a stream with; all else is final."""
_MAX_VAIN_ATTEMPTS: Final = 8
_MAX_WAIT_SECONDS: Final = 30.0
_FIRST_WAIT_SECONDS: Final = 0.25
_SESSION_TIMEOUT_SECONDS: Final = 60.0


class BigQueryError(ExportError):
    """The table cannot be read; the message names project, table, cause and remedy in one line."""


@dataclass(frozen=True, kw_only=True)
class StreamCounts:
    """What one stream gave."""

    parts: tuple[str, ...]
    num_rows: int
    num_resumed: int
    """Times the connection broke and the stream was taken up again."""


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """What was read, stream by stream in the session's order."""

    table: str
    row_restriction: str
    num_rows: int
    streams: tuple[StreamCounts, ...]


def read_table(
    table: str,
    out_dir: Path,
    project: str | None = None,
    *,
    row_restriction: str = ROW_RESTRICTION,
    num_streams: int = NUM_STREAMS,
    client: BigQueryReadClient | None = None,
) -> TableReport:
    """The report on `table`, ``project.dataset.table``, whose rows are written to ``stream-*.parquet`` in `out_dir`.

    Parts hold `POST_COLUMNS` with the table's own types. `project` is the one that reads and is billed, not the one
    that owns the table; None takes the one of the credentials. BigQuery may open fewer streams than `num_streams`.
    Nothing is left in `out_dir` when reading fails. `client` is for tests; it needs a `project`.

    Raises:
        BigQueryError: no credentials, project or permission; no such table, column or row; parts from before in
            `out_dir`; a stream that breaks again and again without a row in between.
    """
    path = _table_path(table)
    if next(out_dir.glob("stream-*.parquet"), None):
        raise BigQueryError(f"{out_dir}: holds the parts of a table already; remove them or read into an empty folder")
    if client is None:
        client, project = _connect(project)
        with client:
            return read_table(
                table, out_dir, project, row_restriction=row_restriction, num_streams=num_streams, client=client
            )
    if not project:
        raise BigQueryError(f"{table}: no project to read with; name the project")
    with _explained(table, project):
        session = _open_session(client, project, path, row_restriction, num_streams)
        streams = _read_streams(client, session, out_dir) if session.streams else ()
    report = TableReport(
        table=table,
        row_restriction=row_restriction,
        num_rows=sum(stream.num_rows for stream in streams),
        streams=tuple(streams),
    )
    if report.num_rows == 0:
        for file in out_dir.glob("stream-*.parquet"):
            file.unlink()
        raise BigQueryError(f"{table}: no row fits {row_restriction!r}; correct the table's name or the restriction")
    return report


def _table_path(table: str) -> str:
    match = _TABLE.fullmatch(table)
    if match is None:
        raise BigQueryError(f"{table!r}: is no table; write it as project.dataset.table, such as {DANBOORU_TABLE}")
    project, dataset, name = match.groups()
    return f"projects/{project}/datasets/{dataset}/tables/{name}"


def _connect(project: str | None) -> tuple[BigQueryReadClient, str]:
    """A client with the credentials that Google's rules find, and the project to read with."""
    try:
        credentials, found = google.auth.default(scopes=[_SCOPE])
    except auth_errors.GoogleAuthError as error:
        raise BigQueryError(
            f"no Google credentials ({_first_line(error)}); run `gcloud auth application-default login` or let "
            "GOOGLE_APPLICATION_CREDENTIALS name a key file"
        ) from error
    project = project or found
    if not project:
        raise BigQueryError(
            "no Google Cloud project to read with: neither was one named nor do the credentials have one; name the "
            "project or set GOOGLE_CLOUD_PROJECT"
        )
    try:
        # Within a call a refused refresh looks like a broken connection and would be tried again and again.
        credentials.refresh(Request())  # type: ignore[no-untyped-call]
    except auth_errors.GoogleAuthError as error:
        raise BigQueryError(
            f"Google refuses the credentials ({_first_line(error)}); check the network and run "
            "`gcloud auth application-default login` again or renew the key file"
        ) from error
    channel = BigQueryReadGrpcTransport.create_channel(credentials=credentials, options=_CHANNEL_OPTIONS)
    return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel)), project


def _open_session(
    client: BigQueryReadClient, project: str, path: str, row_restriction: str, num_streams: int
) -> types.ReadSession:
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
    return client.create_read_session(
        parent=f"projects/{project}", read_session=wanted, max_stream_count=num_streams, retry=retry
    )


def _read_streams(client: BigQueryReadClient, session: types.ReadSession, out_dir: Path) -> Sequence[StreamCounts]:
    """The counts of all streams, read at once; the first failure ends them all and removes the parts."""
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
            # The stream that failed stops the others, which then raise nothing: its error is the one that counts.
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
    """One stream's rows, each exactly once."""

    def __init__(self, client: BigQueryReadClient, name: str, schema: pa.Schema) -> None:
        self.num_resumed = 0
        self._client = client
        self._name = name
        self._schema = schema
        self._offset = 0
        self._stopped = Event()
        self._call: Any = None

    def stop(self) -> None:
        """Ends `batches`, also while it waits for a page; without effect when it has ended."""
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The stream's rows in its order, taken up after each break where they ended."""
        num_vain = 0
        while True:
            offset = self._offset
            try:
                yield from self._pages()
                return
            except _BROKEN as error:
                num_vain = 0 if self._offset > offset else num_vain + 1
                if num_vain == _MAX_VAIN_ATTEMPTS:
                    raise BigQueryError(
                        f"{self._name}: broke {num_vain} times in a row at row {self._offset} "
                        f"({_first_line(error)}); check the network and read again"
                    ) from error
            except api_errors.Cancelled:
                if not self._stopped.is_set():
                    raise
            if self._stopped.wait(min(_FIRST_WAIT_SECONDS * 2**num_vain, _MAX_WAIT_SECONDS)):
                return
            self.num_resumed += 1

    def _pages(self) -> Iterator[pa.RecordBatch]:
        request = types.ReadRowsRequest(read_stream=self._name, offset=self._offset)
        route = to_grpc_metadata((("read_stream", self._name),))  # type: ignore[no-untyped-call]
        # The bare call: the client's own would wait here for the first page, where `stop` cannot reach it.
        read_rows: Any = self._client.transport.read_rows
        self._call = read_rows(request, metadata=(route,))
        if self._stopped.is_set():  # while the call was made: there was none yet that `stop` could cancel
            self._call.cancel()
        try:
            for page in self._call:
                batch = self._decoded(page)
                # Before the yield: a page that was handed over is not asked for again.
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
                f"{self._name}: the page at row {self._offset} is no Arrow batch ({_first_line(error)}); read again"
            ) from error
        if len(batch) != page.row_count:
            raise BigQueryError(
                f"{self._name}: the page at row {self._offset} says {page.row_count} rows and holds {len(batch)}; "
                "read again"
            )
        return batch


@contextmanager
def _explained(table: str, project: str) -> Iterator[None]:
    """Turns Google's refusals into a line with the remedy."""
    try:
        yield
    except api_errors.NotFound as error:
        raise BigQueryError(f"{table}: is not there ({_first_line(error)}); correct the table's name") from error
    except (api_errors.Forbidden, api_errors.Unauthorized) as error:
        raise BigQueryError(
            f"{table}: project {project!r} may not read it ({_first_line(error)}); enable the BigQuery Storage API in "
            "that project and give the account the role BigQuery Read Session User there"
        ) from error
    except api_errors.RetryError as error:
        raise BigQueryError(
            f"{table}: no answer to project {project!r} ({_first_line(error)}); check the network and read again"
        ) from error
    except api_errors.GoogleAPICallError as error:
        raise BigQueryError(
            f"{table}: BigQuery refuses to read it for project {project!r} ({_first_line(error)}); check the names of "
            "project and table and the row restriction"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
