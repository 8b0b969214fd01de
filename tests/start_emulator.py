"""Starts bqemulator on free loopback ports; run by the Python of ``.venv-emulator`` alone.

bqemulator 1.4.0 ignores ``ReadRowsRequest.offset``: every ``ReadRows`` starts at the stream's first row, so that a
client that resumes as documented gets rows twice. Here its look-up of a stream's rows leaves out those before the
offset, which is what BigQuery does. It sends pages of up to 65,536 rows; smaller ones let a stream break between
pages. And a call whose client has gone keeps its thread for good: after six of them, on two cores, none is answered.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pyarrow as pa
from bqemulator.cli import main
from bqemulator.grpc_api import read_servicer
from google.cloud.bigquery_storage_v1 import types

PAGE_ROWS = 500
NUM_THREADS = 128

request_of_this_thread = threading.local()
rows_of_stream = read_servicer.get_stream_data
answer = read_servicer.BigQueryReadHandler._handle_read_rows


def answer_from_offset(handler: Any, request: bytes, context: Any) -> Iterator[bytes]:
    # The rows are looked up in the same step of the generator, hence in the same thread.
    request_of_this_thread.offset = types.ReadRowsRequest.deserialize(request).offset
    yield from answer(handler, request, context)


def rows_from_offset(session: str, stream: str) -> pa.Table | None:
    rows = rows_of_stream(session, stream)
    if rows is None:
        return None
    left = rows.slice(request_of_this_thread.offset).to_batches(max_chunksize=PAGE_ROWS)
    return pa.Table.from_batches(left, schema=rows.schema)


read_servicer.get_stream_data = rows_from_offset
read_servicer.BigQueryReadHandler._handle_read_rows = answer_from_offset
grpc.aio.server = functools.partial(grpc.aio.server, migration_thread_pool=ThreadPoolExecutor(NUM_THREADS))

if __name__ == "__main__":
    main(["start", "--rest-port", "0", "--grpc-port", "0", *sys.argv[1:]])
