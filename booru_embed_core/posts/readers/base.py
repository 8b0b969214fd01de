"""The interface of a reader, and what readers share."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final, Protocol, runtime_checkable

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.errors import first_line
from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.database import is_out_of_resources
from booru_embed_core.posts.readers.lines import first_bytes
from booru_embed_core.posts.validation import ExportError

HIDDEN_COLUMN: Final = "is_hidden"
"""Column of a reader's batches: whether one of the post's `FLAG_COLUMNS` is true."""

PATH_COLUMN: Final = "path"
"""Column of some readers' batches: the path of a post's file, relative to the folder that is read."""

BATCH_RECORDS: Final = 131_072


@dataclass(frozen=True)
class ExportPath:
    """What a reader is chosen by.

    Attributes:
        path: a file, or a folder for a format that is one.
    """

    path: Path

    @cached_property
    def start(self) -> bytes:
        """The first bytes of the file, unpacked and without a byte order mark; none of a folder.

        Raises:
            ExportError: its gzip or zstd stream is broken.
        """
        return b"" if self.path.is_dir() else first_bytes(self.path)


class Reader(Protocol):
    """One path of an export; columns and ratings are called by Danbooru's names in all that it gives.

    A "line" is the number by which a person finds a record, from 1: a physical line in text, a row elsewhere.
    `num_records` and `malformed` are final once `batches` has been drained.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """Ends of the format's file names, such as ``.csv``; readers are chosen by `opens`, whatever the name."""

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None: ...

    @property
    def num_records(self) -> int:
        """Records counted without the parser that makes the batches."""

    @property
    def malformed(self) -> NDArray[np.int64]:
        """Lines (int64, ascending) of records that are in no batch."""

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """Whether `candidate` is of this format."""

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:
        """The other records in their order: `POST_COLUMNS` and `HIDDEN_COLUMN`, null where a value is invalid.

        Tags come raw: text or lists of text as the file has them, null where there are none. A file with all tags in
        one field has `ALL_TAGS_COLUMN` instead of `TAG_COLUMNS`. A format whose posts are files has `PATH_COLUMN` too.
        `scratch` is an empty folder.
        """

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lines of `record` (int64 `[n]`), which counts the records of the batches from 0."""

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """Line, raw text and problem (None where there is none) of each of `lines`, which ascend."""


@runtime_checkable
class FilesReader(Reader, Protocol):
    """A reader whose posts are files: a "line" is a file's number, and batches have `PATH_COLUMN`.

    What it knows beside the posts is final once `batches` has been drained.
    """

    @property
    def tag_separator(self) -> str:
        """What separates the tags."""

    @property
    def other_namespaces(self) -> Mapping[str, int]:
        """How many tags have each namespace that has no category; it stays part of the tag."""

    def left_out(self, label: str) -> list[str]:
        """What is not read, in the words of reports that call the path `label`."""


def run_on(
    connection: duckdb.DuckDBPyConnection, query: str, records: pa.Table, file: Path
) -> Iterator[pa.RecordBatch]:
    """Batches of `query`, in the order of the table ``records`` that it reads.

    Raises:
        ExportError: DuckDB cannot run it; names `file`.
    """
    connection.register("records", records)
    try:
        yield from connection.sql(query).to_arrow_table().combine_chunks().to_batches()
    except (duckdb.Error, pa.ArrowInvalid) as error:
        if is_out_of_resources(error):  # told by `connect`, which knows the settings
            raise
        raise parse_error(file, error) from error
    finally:
        connection.unregister("records")


def parse_error(file: Path, error: Exception) -> ExportError:
    """The error of a file that cannot be parsed."""
    return ExportError(f"{file}: cannot be parsed ({first_line(error)}); check the file")
