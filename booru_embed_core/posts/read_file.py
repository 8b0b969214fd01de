"""One file on its way into the ``posts`` table: which of its records are kept, and the state between files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.identity import global_ids, hashed_ids
from booru_embed_core.posts.parquet_parts import PostsWriter, SeenIds
from booru_embed_core.posts.paths import IMPLICATIONS_FILE, PATHS_FILE, PathsWriter
from booru_embed_core.posts.progress import Progress, silent
from booru_embed_core.posts.readers.base import PATH_COLUMN, FilesReader, Reader
from booru_embed_core.posts.readers.lines import concatenated
from booru_embed_core.posts.readers.registry import open_reader
from booru_embed_core.posts.rejects import REJECTS_FILE, RejectsWriter
from booru_embed_core.posts.report import FileCounts
from booru_embed_core.posts.row_status import RowStatus, row_status, up_to_limit
from booru_embed_core.posts.sources import Source
from booru_embed_core.posts.tag_fields import canonical_fields
from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.posts.validation import ColumnsError, ExportError
from booru_embed_core.schema import (
    ALL_TAGS_COLUMN,
    CATEGORIES,
    POST_COLUMNS,
    TAG_COLUMNS,
    TAG_SEPARATOR,
    Category,
    tag_column,
)
from booru_embed_core.settings import PostsSettings

DUPLICATE_REASON: Final = "duplicate: an earlier post has this id"
_NUM_SHOWN_REASONS: Final = 5


@dataclass
class Reading:
    """State that is carried from file to file."""

    settings: PostsSettings
    out_dir: Path
    parquet_parts: PostsWriter
    rejects: RejectsWriter
    paths: PathsWriter = field(init=False)
    progress: Progress = field(default_factory=lambda: Progress(silent))
    num_unknown_tags: int = 0
    num_split_tags: int = 0
    num_null_words: int = 0
    num_aliases: int = 0
    """Old names of kept posts that were replaced before they reached the writer."""
    seen: SeenIds = field(default_factory=SeenIds)
    counts: list[FileCounts] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    others: list[ColumnsError] = field(default_factory=list)
    """What was wrong with files that were left out since they hold no posts."""

    def __post_init__(self) -> None:
        self.paths = PathsWriter(self.out_dir / PATHS_FILE)

    def remove_files(self) -> None:
        """Removes what was written, so that a failure leaves nothing that looks like posts."""
        others = (self.out_dir / name for name in (REJECTS_FILE, PATHS_FILE, IMPLICATIONS_FILE))
        for path in (*self.parquet_parts.paths, *others):
            path.unlink(missing_ok=True)

    @property
    def room(self) -> int | None:
        """Posts that may still be kept; None for any number."""
        limit = self.settings.limit_posts
        return None if limit is None else limit - self.parquet_parts.num_rows


@dataclass
class FileReading:
    """One file on its way into the table."""

    file: Path
    label: str
    source: Source
    conventions: Conventions
    state: Reading
    num_parsed: int = 0
    num_filtered: int = 0
    num_of_other_files: int = 0
    invalid: list[NDArray[np.int64]] = field(default_factory=list)
    duplicate: list[NDArray[np.int64]] = field(default_factory=list)

    def run(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> FileCounts:
        """Reads the file and gives its counts."""
        state = self.state
        num_before = sum(counts.num_read for counts in state.counts)
        state.progress.update(self.label, num_before)
        reader = open_reader(self.file, self.conventions, ends_early=state.room is not None)
        kept_before = state.parquet_parts.num_rows
        seen_before = state.seen.snapshot()
        is_full = False
        with contextlib.closing(reader.batches(connection, scratch)) as batches:
            for raw in batches:
                is_full = self._add(raw, reader, seen_before)
                state.progress.update(self.label, num_before + self.num_parsed)
                if is_full:
                    break
        malformed, num_read = reader.malformed, reader.num_records
        if is_full:  # records behind the last post count as not read
            malformed = malformed[malformed < reader.line_of(np.array([self.num_parsed - 1]))]
            num_read = self.num_parsed + len(malformed)
        if self.num_parsed + len(malformed) != num_read:
            raise ExportError(
                f"{self.file}: {num_read} records were counted, of which {len(malformed)} malformed, but "
                f"{self.num_parsed} were parsed; report this file as a bug of booru-embed"
            )
        rejected = np.union1d(malformed, reader.line_of(concatenated(self.invalid)))
        duplicates = reader.line_of(concatenated(self.duplicate))
        _set_aside(reader, self.label, rejected, duplicates, state)
        of_files = reader if isinstance(reader, FilesReader) else None
        if of_files is not None:
            state.left_out.extend(of_files.left_out(self.label))
        return FileCounts(
            file=self.label,
            num_read=num_read,
            num_kept=state.parquet_parts.num_rows - kept_before,
            num_duplicate=len(duplicates),
            num_rejected=len(rejected),
            num_filtered=self.num_filtered,
            num_duplicate_of_other_files=self.num_of_other_files,
            tag_separator=self.conventions.tag_separator if of_files is None else of_files.tag_separator,
            null_words=self.conventions.null_words or (),
            other_namespaces={} if of_files is None else dict(of_files.other_namespaces),
        )

    def _add(self, raw: pa.RecordBatch, reader: Reader, seen_before: SeenIds) -> bool:
        """Adds the posts of a reader's batch; whether they fill the limit."""
        state = self.state
        batch, num_words = canonical_fields(raw, self.conventions)
        state.num_null_words += num_words
        batch = self._with_ids(self._with_whole_paths(batch), reader)
        status, is_full = up_to_limit(row_status(batch, state.settings, state.seen), state.room)
        is_duplicate = status == RowStatus.DUPLICATE
        self.invalid.append(np.flatnonzero(status == RowStatus.INVALID) + self.num_parsed)
        self.duplicate.append(np.flatnonzero(is_duplicate) + self.num_parsed)
        if is_duplicate.any():
            ids = batch.column("id").slice(0, len(status)).filter(pa.array(is_duplicate)).to_numpy()
            self.num_of_other_files += int(seen_before.holds(ids).sum())
        self.num_filtered += int((status == RowStatus.FILTERED).sum())
        self.num_parsed += len(status)
        is_kept = status == RowStatus.KEPT
        split = self._by_category(batch, is_kept)
        kept = split.slice(0, len(status))
        kept = kept if is_kept.all() else kept.filter(pa.array(is_kept))
        if PATH_COLUMN in kept.schema.names:
            state.paths.add(kept.column("id"), kept.column(PATH_COLUMN))
        state.parquet_parts.add(self._renamed(kept.select(POST_COLUMNS)))
        return is_full

    def _with_whole_paths(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`batch` with the name of the folder or archive before each path, and ids that follow, if there are several.

        Files in two of them may have the same path, and they are two posts.
        """
        if PATH_COLUMN not in batch.schema.names or list(self.source.files) == [self.file]:
            return batch
        ids: Any = batch.column("id")
        paths: Any = batch.column(PATH_COLUMN)
        is_of_path: Any = pc.equal(ids, pa.array(hashed_ids(paths.to_pylist())))
        whole: Any = pc.binary_join_element_wise(pa.scalar(self.label), paths, "/")
        ids = pc.if_else(is_of_path, pa.array(hashed_ids(whole.to_pylist())), ids)
        batch = batch.set_column(batch.schema.get_field_index("id"), "id", ids)
        return batch.set_column(batch.schema.get_field_index(PATH_COLUMN), PATH_COLUMN, whole)

    def _with_ids(self, batch: pa.RecordBatch, reader: Reader) -> pa.RecordBatch:
        """`batch` with ids of rows where the export has none, and the site's number in all ids."""
        ids = batch.column("id")
        if self.conventions.missing_id is not None and PATH_COLUMN not in batch.schema.names:
            lines = reader.line_of(np.arange(len(batch)) + self.num_parsed).tolist()
            ids = pa.array(hashed_ids([f"{self.label}\0{line}" for line in lines]))
        if self.source.site is not None:
            numbers = ids.fill_null(0).to_numpy(zero_copy_only=False)
            ids = pa.array(global_ids(numbers, self.source.site), mask=ids.is_null().to_numpy(zero_copy_only=False))
        return batch.set_column(batch.schema.get_field_index("id"), "id", ids)

    def _by_category(self, batch: pa.RecordBatch, is_kept: NDArray[np.bool_]) -> pa.RecordBatch:
        """`batch` with the tags of each category in a column of their own; `is_kept` is of its first rows.

        Raises:
            ExportError: the file has all tags in one column, and there is no table of tags to split them by.
        """
        if ALL_TAGS_COLUMN not in batch.schema.names:
            return batch
        state = self.state
        own = [name for name in TAG_COLUMNS if name in batch.schema.names]
        if self.source.tag_categories is None and own:
            return _joined_with(batch, {tag_column(Category.GENERAL): batch.column(ALL_TAGS_COLUMN)})
        if self.source.tag_categories is None:
            raise ExportError(
                f"{self.file}: has {self.conventions.source(ALL_TAGS_COLUMN)} and none of {', '.join(TAG_COLUMNS)}; "
                "set [posts] tag_categories to a table of tag and category, or, to count all tags as general, "
                '[posts.columns] tag_string_general to the name of this column in the file and the four others to ""'
            )
        fields, tag_of = batch.column(ALL_TAGS_COLUMN), self.source.aliases.tag_of_any
        split = self.source.tag_categories.split(fields, tag_of)
        state.num_unknown_tags += split.num_unknown
        state.num_split_tags += split.num_tags
        state.num_aliases += int(split.num_old[: len(is_kept)][is_kept].sum())
        return _joined_with(batch, split.columns)

    def _renamed(self, posts: pa.RecordBatch) -> pa.RecordBatch:
        """`posts` with their old names replaced, unless the writer does it."""
        if self.state.parquet_parts.aliases is self.source.aliases:
            return posts
        for category, name in zip(CATEGORIES, TAG_COLUMNS, strict=True):
            lists, num_renamed = self.source.aliases.apply(TagLists.split(posts.column(name)), category)
            if num_renamed:
                self.state.num_aliases += num_renamed
                fields: Any = pc.binary_join(lists.to_arrow().cast(pa.list_(pa.string())), TAG_SEPARATOR)
                posts = posts.set_column(posts.schema.get_field_index(name), name, fields)
        return posts


def _joined_with(batch: pa.RecordBatch, tags: Mapping[str, pa.Array[Any]]) -> pa.RecordBatch:
    """`batch` with the fields of `tags` behind its own of the same columns."""
    columns: dict[str, Any] = {name: batch.column(name) for name in batch.schema.names}
    for name, fields in tags.items():
        has_own = name in columns
        columns[name] = pc.binary_join_element_wise(columns[name], fields, TAG_SEPARATOR) if has_own else fields
    return pa.RecordBatch.from_pydict(columns)


def _set_aside(
    reader: Reader, label: str, rejected: NDArray[np.int64], duplicates: NDArray[np.int64], state: Reading
) -> None:
    """Writes the raw text of these lines with their reasons, in the file's order."""
    wanted = np.sort(np.concatenate([rejected, duplicates])).tolist()
    if not wanted:
        return
    is_duplicate = set(duplicates.tolist())
    for number, raw, problem in reader.problems(wanted):
        reason = DUPLICATE_REASON if number in is_duplicate else problem or "not a well-formed record"
        if number not in is_duplicate and len(state.reasons) < _NUM_SHOWN_REASONS:
            state.reasons.append(f"{label} line {number}: {reason}")
        state.rejects.add(label, number, reason, raw)
