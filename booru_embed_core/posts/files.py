"""Reads exports of any kind into the ``posts`` table: Parquet parts in export order.

How a kind of file is parsed stands in ``delimited.py``, ``json_lines.py`` and ``parquet.py``. Lines with unfit values
and posts seen before leave the stream here. Only for files with such lines a last look fetches their raw text.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.database import connect
from booru_embed_core.posts.lines import first_bytes, joined
from booru_embed_core.posts.manifest import write_manifest
from booru_embed_core.posts.names import DANBOORU, Names
from booru_embed_core.posts.parquet_parts import PostsWriter, SeenIds
from booru_embed_core.posts.readers.base import HIDDEN_COLUMN, Reader
from booru_embed_core.posts.readers.chunked_csv import PiecewiseSource
from booru_embed_core.posts.readers.delimited import DelimitedSource
from booru_embed_core.posts.readers.json_lines import JsonLinesSource
from booru_embed_core.posts.readers.parquet import ParquetSource
from booru_embed_core.posts.tag_categories import TagCategories
from booru_embed_core.posts.validation import ExportError, RejectsWriter, TooManyRejectsError
from booru_embed_core.schema import ALL_TAGS_COLUMN, POST_COLUMNS, RATINGS, TAG_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings

REJECTS_FILE: Final = "rejects.parquet"
REPORT_FILE: Final = "report.json"
DUPLICATE_REASON: Final = "duplicate: a post with this id was read before"
_NUM_SHOWN_REASONS: Final = 5
_PARQUET_MAGIC: Final = b"PAR1"
_KEPT, _UNFIT, _FILTERED, _DUPLICATE = range(4)
_EXPORT_NAMES: Final = ("*.csv", "*.tsv", "*.json", "*.jsonl", "*.ndjson", "*.parquet")
_EXPORT_SUFFIXES: Final = ("", ".gz", ".zst")


@dataclass(frozen=True, kw_only=True)
class FileCounts:
    """Records of one file; blank lines and the header are no records."""

    file: str
    num_read: int
    num_kept: int
    num_duplicate: int
    num_rejected: int
    num_filtered: int = 0


@dataclass(frozen=True, kw_only=True)
class PostsReport:
    """What became of every record: ``num_read`` is counted from the bytes, the rest by what the parser gave.

    Filtered posts are good ones that the settings, or their flags, leave out. With ``limit_posts`` records are read up
    to the one that fills the limit. Of tags of kept posts ``num_aliases`` stood under an old name, and ``num_repeats``
    were left out because their post had them before.
    Where ``tag_string`` was taken apart, ``num_unknown_tags`` uses in the records that were looked at are of tags that
    the table of categories lacks; they count as general.
    """

    num_read: int
    num_kept: int
    num_duplicate: int
    num_rejected: int
    num_filtered: int = 0
    num_aliases: int = 0
    num_repeats: int = 0
    num_unknown_tags: int = 0
    files: tuple[FileCounts, ...]

    @property
    def reconciles(self) -> bool:
        """Whether read = kept + duplicate + rejected + filtered, in every file and in all."""
        names = ("num_kept", "num_duplicate", "num_rejected", "num_filtered")
        sums = {name: sum(getattr(counts, name) for counts in self.files) for name in ("num_read", *names)}
        return all(getattr(self, name) == value for name, value in sums.items()) and all(
            counts.num_read == sum(getattr(counts, name) for name in names) for counts in self.files
        )

    @property
    def summary(self) -> str:
        """The counts in words."""
        return (
            f"{self.num_read:,} posts read, {self.num_kept:,} kept, {self.num_duplicate:,} duplicate, "
            f"{self.num_rejected:,} rejected, {self.num_filtered:,} filtered"
        )

    def to_json(self) -> str:
        """The report as JSON text, with the same bytes for the same counts."""
        return json.dumps({**asdict(self), "reconciles": self.reconciles}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PostsReport:
        """The report that `to_json` wrote."""
        values = json.loads(text)
        values.pop("reconciles")
        files = tuple(FileCounts(**counts) for counts in values.pop("files"))
        return cls(**values, files=files)


def expand_export(patterns: Sequence[str], root: Path) -> list[Path]:
    """The export's files, sorted and each once; relative patterns (with ``*``, ``**``, ``?``) start from `root`.

    A folder stands for the export files in it and below: CSV, TSV, JSON lines and Parquet, by their names; where
    posts were written, for the posts alone.

    Raises:
        ExportError: a pattern matches no file, or a file is empty.
    """
    files: set[Path] = set()
    for pattern in patterns:
        literal = root / pattern
        # A name is taken as it stands where there is such a file, though it may hold characters of a pattern.
        matched = [literal] if literal.exists() else map(Path, glob.glob(str(literal), recursive=True))
        found = [file for path in matched for file in _files_of(path)]
        if not found:
            raise ExportError(f"{literal}: no such export file; correct [posts] export or put the file there")
        files.update(found)
    for file in sorted(files):
        if file.stat().st_size == 0:
            raise ExportError(f"{file}: is empty; export the posts again or remove the file")
    return sorted(files)


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.is_file() else []
    names = [name + suffix for name in _EXPORT_NAMES for suffix in _EXPORT_SUFFIXES]
    return [file for name in names for file in path.rglob(name) if file.is_file() and not _is_beside_posts(file)]


def _is_beside_posts(file: Path) -> bool:
    """Whether `file` says something of the posts in its folder, which this project wrote: rejects, report, manifest."""
    is_ours = all((file.parent / name).is_file() for name in (REJECTS_FILE, REPORT_FILE))
    return is_ours and (file.name == REJECTS_FILE or file.suffix == ".json")


def read_posts(
    files: Sequence[Path],
    out_dir: Path,
    settings: PostsSettings,
    duckdb_settings: DuckdbSettings,
    temp_dir: Path | None = None,
    aliases: Aliases | None = None,
    tag_categories: TagCategories | None = None,
) -> PostsReport:
    """The report on `files`, whose posts are written to `out_dir` with ``rejects.parquet``, ``report.json``
    and ``manifest.json``.

    Parts hold `POSTS_SCHEMA` in export order. Of posts with the same id the first stays, and of a tag that is twice in
    a field too. The bytes depend on the export alone, not on threads or memory.

    Raises:
        ExportError: a file has a wrong header or cannot be read, or there is no record at all.
        TooManyRejectsError: more than ``max_rejected_share`` of the records are unfit; names the first reasons.
    """
    state = _Reading(settings, PostsWriter(out_dir, aliases or Aliases({})), RejectsWriter(out_dir / REJECTS_FILE))
    state.tag_categories = tag_categories
    labels = _labels(files)
    with ExitStack() as unless_done:
        unless_done.callback(state.remove_files, out_dir)
        with (
            scratch_folder(temp_dir) as scratch,
            connect(duckdb_settings, scratch) as connection,
            state.parts,
            state.rejects,
        ):
            for file in files:
                if state.room == 0:
                    break
                state.counts.append(_read_file(file, labels[file], state, connection, scratch))
        report = _report(state)
        _accept(report, state.reasons, settings)
        unless_done.pop_all()
    (out_dir / REPORT_FILE).write_text(report.to_json(), encoding="utf-8")
    write_manifest(out_dir)
    return report


@dataclass
class _Reading:
    """What is carried from file to file."""

    settings: PostsSettings
    parts: PostsWriter
    rejects: RejectsWriter
    tag_categories: TagCategories | None = None
    num_unknown_tags: int = 0
    seen: SeenIds = field(default_factory=SeenIds)
    counts: list[FileCounts] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def remove_files(self, out_dir: Path) -> None:
        """Removes what was written, so that a failure leaves nothing that could be taken for posts."""
        for path in (*self.parts.paths, out_dir / REJECTS_FILE):
            path.unlink(missing_ok=True)

    def by_category(self, batch: pa.RecordBatch, file: Path) -> pa.RecordBatch:
        """`batch` with the tags of each category in a column of their own.

        Raises:
            ExportError: all tags of `file` are in one, and there is no table to take them apart by.
        """
        if ALL_TAGS_COLUMN not in batch.schema.names:
            return batch
        if self.tag_categories is None:
            raise ExportError(
                f"{file}: has {self.settings.columns.tag_string} and none of {', '.join(TAG_COLUMNS)}; set [posts] "
                "tag_categories to a table of tag and category"
            )
        split, num_unknown = self.tag_categories.split(batch.column(ALL_TAGS_COLUMN))
        self.num_unknown_tags += num_unknown
        return pa.RecordBatch.from_pydict({**{name: batch.column(name) for name in batch.schema.names}, **split})

    @property
    def room(self) -> int | None:
        """Posts that may still be kept; None for any number."""
        limit = self.settings.limit_posts
        return None if limit is None else limit - self.parts.num_rows


def open_source(file: Path, names: Names = DANBOORU, *, ends_early: bool = False) -> Reader:
    """The reader for `file`, whose kind is told by its first bytes; its columns are called by `names`.

    `ends_early` says that the file will hardly be read to its end.

    Raises:
        ExportError: it is empty or broken, or a column is missing.
    """
    start = first_bytes(file)
    if start.startswith(_PARQUET_MAGIC):
        return ParquetSource(file, names)
    if start.lstrip().startswith(b"{"):
        return JsonLinesSource(file, names)
    return PiecewiseSource(file, names) if ends_early else DelimitedSource(file, names)


def count_wanted(
    files: Sequence[Path], settings: PostsSettings, duckdb_settings: DuckdbSettings, temp_dir: Path | None = None
) -> int:
    """How many posts `read_posts` would keep of `files`, whatever ``limit_posts`` is; nothing is written.

    Raises:
        ExportError: a file lacks a column or cannot be read.
    """
    seen = SeenIds()
    num_wanted = 0
    with scratch_folder(temp_dir) as scratch, connect(duckdb_settings, scratch) as connection:
        for file in files:
            for batch in open_source(file, Names.of(settings)).batches(connection, scratch):
                num_wanted += int((_fates(batch, settings, seen) == _KEPT).sum())
    return num_wanted


def _read_file(
    file: Path, label: str, state: _Reading, connection: duckdb.DuckDBPyConnection, scratch: Path
) -> FileCounts:
    source = open_source(file, Names.of(state.settings), ends_early=state.room is not None)
    kept_before = state.parts.num_rows
    unfit: list[NDArray[np.int64]] = []
    duplicate: list[NDArray[np.int64]] = []
    num_parsed = num_filtered = 0
    is_full = False
    with contextlib.closing(source.batches(connection, scratch)) as batches:
        for batch in batches:
            fates = _fates(batch, state.settings, state.seen)
            fates, is_full = _up_to_limit(fates, state.room)
            unfit.append(np.flatnonzero(fates == _UNFIT) + num_parsed)
            duplicate.append(np.flatnonzero(fates == _DUPLICATE) + num_parsed)
            num_filtered += int((fates == _FILTERED).sum())
            num_parsed += len(fates)
            posts = state.by_category(batch, file).select(POST_COLUMNS).slice(0, len(fates))
            state.parts.add(posts.filter(pa.array(fates == _KEPT)) if fates.any() else posts)
            if is_full:
                break
    malformed = source.malformed
    num_read = source.num_records
    if is_full:  # what stands behind the last post counts as not read
        malformed = malformed[malformed < source.line_of(np.array([num_parsed - 1]))]
        num_read = num_parsed + len(malformed)
    if num_parsed + len(malformed) != num_read:
        raise ExportError(
            f"{file}: {num_read} records were counted, of which {len(malformed)} malformed, but "
            f"{num_parsed} were parsed; report this file as a bug of booru-embed"
        )
    rejected = np.union1d(malformed, source.line_of(joined(unfit)))
    duplicates = source.line_of(joined(duplicate))
    _set_aside(source, label, rejected, duplicates, state)
    return FileCounts(
        file=label,
        num_read=num_read,
        num_kept=state.parts.num_rows - kept_before,
        num_duplicate=len(duplicates),
        num_rejected=len(rejected),
        num_filtered=num_filtered,
    )


def _fates(batch: pa.RecordBatch, settings: PostsSettings, seen: SeenIds) -> NDArray[np.uint8]:
    """What becomes of each row; only posts that are wanted are remembered as seen."""
    fates = np.full(len(batch), _KEPT, dtype=np.uint8)
    valid = _valid(batch)
    fates[~valid] = _UNFIT
    hidden = batch.column(HIDDEN_COLUMN).fill_null(False).to_numpy(zero_copy_only=False)
    if settings.min_score is not None:
        hidden = hidden | (batch.column("score").fill_null(0).to_numpy(zero_copy_only=False) < settings.min_score)
    if set(settings.ratings) != set(RATINGS):
        wanted = pc.is_in(batch.column("rating"), value_set=pa.array(settings.ratings))
        hidden = hidden | ~wanted.to_numpy(zero_copy_only=False)
    fates[valid & hidden] = _FILTERED
    rows = np.flatnonzero(fates == _KEPT)
    ids = batch.column("id").fill_null(0).to_numpy(zero_copy_only=False)
    fates[rows[~seen.add(ids[rows])]] = _DUPLICATE
    return fates


def _up_to_limit(fates: NDArray[np.uint8], room: int | None) -> tuple[NDArray[np.uint8], bool]:
    """`fates` up to the row that fills the `room`, and whether one does."""
    if room is None:
        return fates, False
    kept = np.flatnonzero(fates == _KEPT)
    return (fates[: kept[room - 1] + 1], True) if len(kept) >= room else (fates, False)


def _valid(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Which rows have all values; a source gives null for every unfit one."""
    valid = np.ones(len(batch), dtype=np.bool_)
    for column in batch.columns:
        if column.null_count:
            valid &= column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _set_aside(
    source: Reader, label: str, rejected: NDArray[np.int64], duplicates: NDArray[np.int64], state: _Reading
) -> None:
    """Writes the raw text of these lines with their reasons, in the file's order."""
    wanted = np.sort(np.concatenate([rejected, duplicates])).tolist()
    if not wanted:
        return
    is_duplicate = set(duplicates.tolist())
    for number, raw, problem in source.problems(wanted):
        reason = DUPLICATE_REASON if number in is_duplicate else problem or "not a well-formed record"
        if number not in is_duplicate and len(state.reasons) < _NUM_SHOWN_REASONS:
            state.reasons.append(f"{label} line {number}: {reason}")
        state.rejects.add(label, number, reason, raw)


def _report(state: _Reading) -> PostsReport:
    counts = state.counts
    return PostsReport(
        num_read=sum(file.num_read for file in counts),
        num_kept=sum(file.num_kept for file in counts),
        num_duplicate=sum(file.num_duplicate for file in counts),
        num_rejected=sum(file.num_rejected for file in counts),
        num_filtered=sum(file.num_filtered for file in counts),
        num_aliases=state.parts.num_aliases,
        num_repeats=state.parts.num_repeats,
        num_unknown_tags=state.num_unknown_tags,
        files=tuple(counts),
    )


def _accept(report: PostsReport, reasons: Sequence[str], settings: PostsSettings) -> None:
    if report.num_read == 0:
        names = ", ".join(counts.file for counts in report.files)
        raise ExportError(f"{names}: the export holds no post; export the posts again")
    share = report.num_rejected / report.num_read
    if share > settings.max_rejected_share:
        raise TooManyRejectsError(
            f"{report.num_rejected} of {report.num_read} records ({share:.2%}) are unfit, more than "
            f"max_rejected_share = {settings.max_rejected_share:g} allows; mend the export or raise it; first: "
            + "; ".join(reasons)
        )
    assert report.reconciles, report


def _labels(files: Sequence[Path]) -> dict[Path, str]:
    """How reports name each file: relative to the common folder, so that a moved export gives the same bytes."""
    if not files:
        raise ExportError("no export file is named; set [posts] export")
    folder = os.path.commonpath([file.absolute().parent for file in files])
    return {file: file.absolute().relative_to(folder).as_posix() for file in files}
