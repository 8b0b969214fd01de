"""Arrow's own files, as Hugging Face's ``save_to_disk``, Feather and polars write them: file and stream format.

A "line" is the row's number from 1. The file is mapped, so memory holds one of its record batches where they are
compressed, and else little. A stream must have its end mark: without it a stream that was cut short looks whole.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import duckdb
import pyarrow as pa

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.arrow_columns import ArrowColumns, ArrowRows
from booru_embed_core.posts.readers.base import BATCH_RECORDS, ExportPath, parse_error, run_on
from booru_embed_core.posts.readers.lines import concatenated
from booru_embed_core.posts.validation import ExportError

_FILE_MAGIC: Final = b"ARROW1"
_FEATHER_1_MAGIC: Final = b"FEA1"
_CONTINUATION: Final = b"\xff\xff\xff\xff"
_STREAM_END: Final = _CONTINUATION + bytes(4)


class ArrowIpcReader(ArrowRows):
    """A file of Arrow's IPC formats; see `Reader`.

    Raises:
        ExportError: it is broken, or lacks a column.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".arrow", ".feather")

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        self._path = path
        with path.open("rb") as stream:
            start = stream.read(len(_FILE_MAGIC))
        if start.startswith(_FEATHER_1_MAGIC):
            raise ExportError(f"{path}: is Feather of version 1; write it in version 2 or as Parquet")
        self._is_file = start == _FILE_MAGIC
        with self._opened() as opened:
            self.columns = ArrowColumns(opened.schema, path, conventions)
        self.num_records = 0
        self.malformed = concatenated([])

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`."""
        start = candidate.start
        # A message of a stream has its length behind the mark, and at offset 8 the offset of its table.
        is_stream = start.startswith(_CONTINUATION) and len(start) > 16 and start[7] == 0 and start[9:12] == bytes(3)
        return is_stream or start.startswith((_FILE_MAGIC, _FEATHER_1_MAGIC))

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Reader`."""
        query = self.columns.query
        for batch in self._raw_batches():
            self.num_records += len(batch)
            yield from run_on(connection, query, self.columns.records(batch), self._path)

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        with self._opened() as opened:
            for whole in self._whole_batches(opened):
                chosen = whole.select(self.columns.sources)
                for start in range(0, len(chosen), BATCH_RECORDS):
                    batch = chosen.slice(start, BATCH_RECORDS)
                    # Arrow does not check strings as it reads: bytes that are no UTF-8 would end up in the posts.
                    batch.validate(full=True)
                    yield batch

    def _whole_batches(self, opened: Any) -> Iterator[pa.RecordBatch]:
        if self._is_file:
            for index in range(opened.num_record_batches):
                yield opened.get_batch(index)
            return
        with self._path.open("rb") as stream:
            stream.seek(max(0, self._path.stat().st_size - len(_STREAM_END)))
            if stream.read() != _STREAM_END:
                raise ExportError(f"{self._path}: the stream has no end mark and may be cut short; fetch it again")
        yield from opened

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            open_ipc: Any = pa.ipc.open_file if self._is_file else pa.ipc.open_stream
            with pa.memory_map(str(self._path)) as source, open_ipc(source) as opened:
                yield opened
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a column's name may be no text
            raise parse_error(self._path, error) from error
