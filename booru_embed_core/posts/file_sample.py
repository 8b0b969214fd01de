"""The first records of a file as they are read, and what is told of them."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol, Self, runtime_checkable

import numpy as np
import pyarrow as pa

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts import proposals
from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.database import connect
from booru_embed_core.posts.parquet_parts import SeenIds
from booru_embed_core.posts.readers.base import HIDDEN_COLUMN, FilesReader, Reader
from booru_embed_core.posts.readers.compression import Compression, compression_of
from booru_embed_core.posts.readers.registry import open_reader
from booru_embed_core.posts.readers.sqlite import SqliteReader
from booru_embed_core.posts.row_status import RowStatus, row_status
from booru_embed_core.posts.tag_fields import SAMPLE_RECORDS, TAG_FIELDS, canonical_fields, settled
from booru_embed_core.posts.validation import ColumnsError
from booru_embed_core.schema import ALL_TAGS_COLUMN, FLAG_COLUMNS, POST_COLUMNS, RATINGS
from booru_embed_core.settings import DuckdbSettings, PostsSettings

_NUM_REASONS: Final = 3
_MIN_TELLING: Final = 20
_KINDS: Final = {
    "ArrowIpc": "Arrow",
    "ChunkedCsv": "CSV",
    "JsonDocuments": "JSON",
    "JsonLines": "JSON lines",
    "Sqlite": "SQLite",
}
_RATING: Final = re.compile(r"rating (.*) is not one of ")
_ENTITY: Final = re.compile(r"&(?:#\d+|#x[0-9a-fA-F]+|amp|quot|apos|lt|gt);")


@dataclass(frozen=True, kw_only=True)
class FileExplanation:
    """What is read of one file.

    Attributes:
        file: its label in reports.
        kind: its format, and what is known of it.
        refused: why ``ingest`` refuses it by the settings as they are; what follows is then by the proposed ones.
        columns: the file's column by the canonical one.
        unused: its other columns.
        tag_separator: what separates tags; None where they are lists.
        null_words: the words that stand for nothing.
        ratings: for each value of the ratings how many records have it, and what it becomes; None where it is invalid.
        num_sampled: the records that were looked at.
        num_hidden: how many of them a flag leaves out.
        num_rejected: how many of them are rejected.
        reasons: the first of the reasons, with lines.
        notes: what may be wrong although it can be read.
    """

    file: str
    kind: str = ""
    refused: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    tag_separator: str | None = None
    null_words: tuple[str, ...] = ()
    ratings: Mapping[str, tuple[int, str | None]] = field(default_factory=dict)
    num_sampled: int = 0
    num_hidden: int = 0
    num_rejected: int = 0
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class FileSample:
    """The first records of a file, as they are read; `problems` are lines and reasons of those that are rejected."""

    path: Path
    reader: Reader
    conventions: Conventions
    raw: pa.Table
    columns: dict[str, str]
    unused: tuple[str, ...]
    num_hidden: int
    num_malformed: int
    problems: list[tuple[int, str]]
    ratings: dict[str, tuple[int, str | None]]

    @property
    def num_records(self) -> int:
        """How many records were looked at."""
        return len(self.raw) + self.num_malformed

    @property
    def num_rejected(self) -> int:
        """How many of them are rejected."""
        return len(self.problems)

    @classmethod
    def of(
        cls,
        path: Path,
        conventions: Conventions,
        settings: PostsSettings,
        duckdb_settings: DuckdbSettings,
        scratch: Path,
    ) -> Self:
        """The first records of `path`.

        Raises:
            ExportError: see `open_reader`.
        """
        found = _found(path, conventions)
        reader = open_reader(path, conventions, ends_early=True)
        columns = _columns(reader, found, conventions)
        used = {part for own in columns.values() for part in own.split(" + ")}
        if isinstance(reader, SqliteReader) and reader.layout.relation is not None:
            used.add(conventions.source(ALL_TAGS_COLUMN))  # what the relation stands for
        batches = list(_batches(reader, duckdb_settings, scratch))
        raw = pa.Table.from_batches(batches).slice(0, SAMPLE_RECORDS) if batches else pa.table({"rating": []})
        conventions = settled(raw, conventions)
        status = _status(raw, conventions, settings)
        lines = reader.line_of(np.arange(len(raw), dtype=np.int64))
        malformed = reader.malformed[reader.malformed < lines[-1]] if len(lines) else reader.malformed
        invalid = np.union1d(malformed, lines[status == RowStatus.INVALID]).tolist()
        problems = _problems(path, conventions, invalid)
        return cls(
            path,
            reader,
            conventions,
            raw,
            columns,
            tuple(own for own in found if own not in used),
            int(raw.column(HIDDEN_COLUMN).to_numpy().astype(bool).sum()) if len(raw) else 0,
            len(malformed),
            [(line, problem or "not a well-formed record") for line, problem in problems],
            _ratings(path, conventions, raw, lines.tolist()),
        )

    def explanation(self, label: str, refused: str | None) -> FileExplanation:
        """What is told about the file."""
        lists = [name for name in TAG_FIELDS if name in self.raw.schema.names]
        is_text = any(pa.types.is_string(self.raw.schema.field(name).type) for name in lists)
        return FileExplanation(
            file=label,
            kind=self._kind(),
            refused=refused,
            columns=self.columns,
            unused=self.unused,
            tag_separator=self._separator() if is_text else None,
            null_words=self.conventions.null_words or (),
            ratings=self.ratings,
            num_sampled=self.num_records,
            num_hidden=self.num_hidden,
            num_rejected=self.num_rejected,
            reasons=tuple(f"line {line}: {reason}" for line, reason in self.problems[:_NUM_REASONS]),
            notes=tuple(self._notes(lists)),
        )

    def _separator(self) -> str:
        own = self.reader.tag_separator if isinstance(self.reader, FilesReader) else "auto"
        return self.conventions.tag_separator if own == "auto" else own

    def _kind(self) -> str:
        name = type(self.reader).__name__.removesuffix("Reader")
        parts = [_KINDS.get(name, re.sub(r"(?<!^)(?=[A-Z])", " ", name))]
        if (dialect := getattr(self.reader, "dialect", None)) is not None:
            parts.append(str(dialect))
        if isinstance(self.reader, SqliteReader):
            parts.append(f"table {self.reader.layout.posts.name}")
        if self.path.is_file() and (compression := compression_of(self.path)) is not Compression.NONE:
            parts.append(compression.value)
        return ", ".join(parts)

    def _notes(self, fields: Sequence[str]) -> Iterator[str]:
        columns = [self.raw.column(name).to_pylist() for name in fields]
        records = zip(*columns, strict=True)
        num_entities = sum(any(_ENTITY.search(str(value)) for value in record) for record in records)
        if num_entities and not self.conventions.html_entities:
            yield f"{num_entities:,} records hold entities such as &#039;; html_entities = true takes them back"
        become = {rating for _, rating in self.ratings.values()}
        if len(self.raw) >= _MIN_TELLING and "s" in become and "g" not in become:
            yield 'no rating is g: if s is safe here, as on e621 and Moebooru, set rating_names = { s = "g" }'


def _found(path: Path, conventions: Conventions) -> tuple[str, ...]:
    """The columns of `path` by its own names; none of a format that has no columns."""
    # A column that no file has makes the reader tell those that it has.
    with_another = replace(conventions, columns={**conventions.columns, "no column": "\0"})
    try:
        open_reader(path, with_another, ends_early=True)
    except ColumnsError as error:
        if set(error.missing) - {"no column"}:
            open_reader(path, conventions, ends_early=True)  # raises without the column that is none
        return error.found
    return ()


@runtime_checkable
class _Layout(Protocol):
    """What a reader knows of columns that are nested, or in several tables."""

    def shown(self) -> Mapping[str, str]:
        """The file's name of each canonical column."""


def _columns(reader: Reader, found: Sequence[str], conventions: Conventions) -> dict[str, str]:
    """The file's name of each canonical column that it has."""
    for layout in (getattr(reader, "columns", None), getattr(reader, "layout", None)):
        if isinstance(layout, _Layout):
            # Readers look for flags in every record, so that they may know more of them than the first ones have.
            return {name: own for name, own in layout.shown().items() if name not in FLAG_COLUMNS or own in found}
    known = {*POST_COLUMNS, ALL_TAGS_COLUMN, *FLAG_COLUMNS}
    canonical = conventions.canonical(found)
    return {name: own for own, name in zip(found, canonical, strict=True) if name in known}


def _batches(reader: Reader, duckdb_settings: DuckdbSettings, scratch: Path) -> Iterator[pa.RecordBatch]:
    with scratch_folder(scratch) as folder, connect(duckdb_settings, folder) as connection:
        num_records = 0
        with closing(reader.batches(connection, folder)) as batches:
            for batch in batches:
                yield batch
                num_records += len(batch)
                if num_records >= SAMPLE_RECORDS:
                    return


def _status(raw: pa.Table, conventions: Conventions, settings: PostsSettings) -> Any:
    status = [np.empty(0, dtype=np.uint8)]
    for one in raw.to_batches():
        batch, _ = canonical_fields(one, conventions)
        if conventions.missing_id is not None:
            batch = batch.set_column(batch.schema.get_field_index("id"), "id", pa.array(np.arange(len(batch))))
        status.append(row_status(batch, settings, SeenIds()))
    return np.concatenate(status)


def _problems(path: Path, conventions: Conventions, lines: Sequence[int]) -> list[tuple[int, str | None]]:
    reader = open_reader(path, conventions, ends_early=True)
    found = itertools.islice(reader.problems(lines), len(lines)) if lines else ()
    return [(line, problem) for line, _, problem in found]


def _ratings(
    path: Path, conventions: Conventions, raw: pa.Table, lines: Sequence[int]
) -> dict[str, tuple[int, str | None]]:
    """How often the records at `lines` have each value of the rating, and what it becomes."""
    # To a reader that knows no rating each is a problem, with the value as the file has it.
    unknowing = replace(conventions, ratings={}, missing_id="row", missing_rating="g")
    matches = [_RATING.match(problem or "") for _, problem in _problems(path, unknowing, lines)]
    counts = Counter(proposals.word_of(match[1]) for match in matches if match)
    if counts:
        return {word: (count, conventions.ratings.get(word)) for word, count in counts.most_common()}
    canonical = Counter(rating for rating in raw.column("rating").to_pylist() if rating in RATINGS)
    return {rating: (count, rating) for rating, count in canonical.most_common()}
