"""Reads files of an export into the ``posts`` table: Parquet parts in export order.

Parsing is up to the ``readers``. Records with invalid values and posts of an id that was read before leave the stream
here. A file with such records is read once more, for their raw text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.checksums import write_checksums
from booru_embed_core.posts.database import connect
from booru_embed_core.posts.export_files import file_labels
from booru_embed_core.posts.names import Names
from booru_embed_core.posts.parquet_parts import PostsWriter, SeenIds
from booru_embed_core.posts.readers.base import Reader
from booru_embed_core.posts.readers.lines import concatenated
from booru_embed_core.posts.readers.registry import open_reader
from booru_embed_core.posts.rejects import REJECTS_FILE, RejectsWriter
from booru_embed_core.posts.report import REPORT_FILE, FileCounts, PostsReport
from booru_embed_core.posts.row_status import RowStatus, row_status, up_to_limit
from booru_embed_core.posts.tag_categories import TagCategories
from booru_embed_core.posts.validation import ExportError, TooManyRejectsError
from booru_embed_core.schema import ALL_TAGS_COLUMN, POST_COLUMNS, TAG_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings

DUPLICATE_REASON: Final = "duplicate: an earlier post has this id"
_NUM_SHOWN_REASONS: Final = 5


def read_posts(
    files: Sequence[Path],
    out_dir: Path,
    settings: PostsSettings,
    duckdb_settings: DuckdbSettings,
    temp_dir: Path | None = None,
    aliases: Aliases | None = None,
    tag_categories: TagCategories | None = None,
) -> PostsReport:
    """The report on `files`, whose posts are written to `out_dir` as Parquet parts.

    With them come ``rejects.parquet``, ``report.json`` and ``manifest.json``. Parts hold `POSTS_SCHEMA` in export
    order. The first of several posts with one id is kept, and a tag that is twice in a field is kept once. The bytes
    depend on the export alone, not on threads or memory.

    Raises:
        ExportError: a file has a wrong header or cannot be read, or there is no record at all.
        TooManyRejectsError: more than ``max_rejected_share`` of the records are invalid; names the first reasons.
    """
    aliases = aliases or Aliases({})
    rejects = RejectsWriter(out_dir / REJECTS_FILE)
    state = _Reading(settings, PostsWriter(out_dir, aliases), rejects, aliases, tag_categories)
    labels = file_labels(files)
    with ExitStack() as unless_done:
        unless_done.callback(state.remove_files, out_dir)
        with (
            scratch_folder(temp_dir) as scratch,
            connect(duckdb_settings, scratch) as connection,
            state.parquet_parts,
            state.rejects,
        ):
            for file in files:
                if state.room == 0:
                    break
                state.counts.append(_read_file(file, labels[file], state, connection, scratch))
        report = PostsReport.of(
            state.counts,
            num_aliases=state.num_aliases + state.parquet_parts.num_aliases,
            num_repeats=state.parquet_parts.num_repeats,
            num_unknown_tags=state.num_unknown_tags,
        )
        _accept(report, state.reasons, settings)
        unless_done.pop_all()
    (out_dir / REPORT_FILE).write_text(report.to_json(), encoding="utf-8")
    write_checksums(out_dir)
    return report


def count_wanted(
    files: Sequence[Path], settings: PostsSettings, duckdb_settings: DuckdbSettings, temp_dir: Path | None = None
) -> int:
    """How many posts `read_posts` would keep of `files` without ``limit_posts``; nothing is written.

    Raises:
        ExportError: a file lacks a column or cannot be read.
    """
    seen = SeenIds()
    num_wanted = 0
    with scratch_folder(temp_dir) as scratch, connect(duckdb_settings, scratch) as connection:
        for file in files:
            for batch in open_reader(file, Names.of(settings)).batches(connection, scratch):
                num_wanted += int((row_status(batch, settings, seen) == RowStatus.KEPT).sum())
    return num_wanted


@dataclass
class _Reading:
    """State that is carried from file to file."""

    settings: PostsSettings
    parquet_parts: PostsWriter
    rejects: RejectsWriter
    aliases: Aliases
    tag_categories: TagCategories | None
    num_unknown_tags: int = 0
    num_aliases: int = 0
    """Old names of kept posts that were replaced in a field of all tags."""
    seen: SeenIds = field(default_factory=SeenIds)
    counts: list[FileCounts] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def remove_files(self, out_dir: Path) -> None:
        """Removes what was written, so that a failure leaves nothing that looks like posts."""
        for path in (*self.parquet_parts.paths, out_dir / REJECTS_FILE):
            path.unlink(missing_ok=True)

    def by_category(self, batch: pa.RecordBatch, is_kept: NDArray[np.bool_], file: Path) -> pa.RecordBatch:
        """`batch` with the tags of each category in a column of their own; `is_kept` is of its first rows.

        Raises:
            ExportError: `file` has all tags in one column, and there is no table of tags to split them by.
        """
        if ALL_TAGS_COLUMN not in batch.schema.names:
            return batch
        if self.tag_categories is None:
            raise ExportError(
                f"{file}: has {self.settings.columns.tag_string} and none of {', '.join(TAG_COLUMNS)}; set [posts] "
                "tag_categories to a table of tag and category"
            )
        fields, tag_of = batch.column(ALL_TAGS_COLUMN), self.aliases.tag_of_any
        split, num_unknown, num_old = self.tag_categories.split(fields, tag_of)
        self.num_unknown_tags += num_unknown
        self.num_aliases += int(num_old[: len(is_kept)][is_kept].sum())
        return pa.RecordBatch.from_pydict({**{name: batch.column(name) for name in batch.schema.names}, **split})

    @property
    def room(self) -> int | None:
        """Posts that may still be kept; None for any number."""
        limit = self.settings.limit_posts
        return None if limit is None else limit - self.parquet_parts.num_rows


def _read_file(
    file: Path, label: str, state: _Reading, connection: duckdb.DuckDBPyConnection, scratch: Path
) -> FileCounts:
    reader = open_reader(file, Names.of(state.settings), ends_early=state.room is not None)
    kept_before = state.parquet_parts.num_rows
    invalid: list[NDArray[np.int64]] = []
    duplicate: list[NDArray[np.int64]] = []
    num_parsed = num_filtered = 0
    is_full = False
    with contextlib.closing(reader.batches(connection, scratch)) as batches:
        for batch in batches:
            status, is_full = up_to_limit(row_status(batch, state.settings, state.seen), state.room)
            invalid.append(np.flatnonzero(status == RowStatus.INVALID) + num_parsed)
            duplicate.append(np.flatnonzero(status == RowStatus.DUPLICATE) + num_parsed)
            num_filtered += int((status == RowStatus.FILTERED).sum())
            num_parsed += len(status)
            is_kept = status == RowStatus.KEPT
            posts = state.by_category(batch, is_kept, file).select(POST_COLUMNS).slice(0, len(status))
            state.parquet_parts.add(posts if is_kept.all() else posts.filter(pa.array(is_kept)))
            if is_full:
                break
    malformed = reader.malformed
    num_read = reader.num_records
    if is_full:  # records behind the last post count as not read
        malformed = malformed[malformed < reader.line_of(np.array([num_parsed - 1]))]
        num_read = num_parsed + len(malformed)
    if num_parsed + len(malformed) != num_read:
        raise ExportError(
            f"{file}: {num_read} records were counted, of which {len(malformed)} malformed, but "
            f"{num_parsed} were parsed; report this file as a bug of booru-embed"
        )
    rejected = np.union1d(malformed, reader.line_of(concatenated(invalid)))
    duplicates = reader.line_of(concatenated(duplicate))
    _set_aside(reader, label, rejected, duplicates, state)
    return FileCounts(
        file=label,
        num_read=num_read,
        num_kept=state.parquet_parts.num_rows - kept_before,
        num_duplicate=len(duplicates),
        num_rejected=len(rejected),
        num_filtered=num_filtered,
    )


def _set_aside(
    reader: Reader, label: str, rejected: NDArray[np.int64], duplicates: NDArray[np.int64], state: _Reading
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


def _accept(report: PostsReport, reasons: Sequence[str], settings: PostsSettings) -> None:
    """Raises where the export holds no post, or too many of its records are rejected."""
    if report.num_read == 0:
        names = ", ".join(counts.file for counts in report.files)
        raise ExportError(f"{names}: the export holds no post; export the posts again")
    share = report.num_rejected / report.num_read
    if share > settings.max_rejected_share:
        raise TooManyRejectsError(
            f"{report.num_rejected} of {report.num_read} records ({share:.2%}) are invalid, more than "
            f"max_rejected_share = {settings.max_rejected_share:g} allows; correct the export or raise it; first: "
            + "; ".join(reasons)
        )
    assert report.reconciles, report
