"""Reads exports of any kind into the ``posts`` table: Parquet parts in export order.

How a kind of file is parsed stands in ``delimited.py``, ``json_lines.py`` and ``parquet.py``. Lines with unfit values
and posts seen before leave the stream here. Only for files with such lines a last look fetches their raw text.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.database import connect, scratch_folder
from booru_embed_core.posts.delimited import DelimitedSource
from booru_embed_core.posts.json_lines import JsonLinesSource
from booru_embed_core.posts.lines import first_bytes, joined
from booru_embed_core.posts.parquet import ParquetSource
from booru_embed_core.posts.parts import PartsWriter, SeenIds
from booru_embed_core.posts.sources import Source
from booru_embed_core.posts.validation import ExportError, RejectsWriter, TooManyRejectsError
from booru_embed_core.schema import POST_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings

REJECTS_FILE: Final = "rejects.parquet"
REPORT_FILE: Final = "report.json"
DUPLICATE_REASON: Final = "duplicate: a post with this id was read before"
_NUM_SHOWN_REASONS: Final = 5
_PARQUET_MAGIC: Final = b"PAR1"


@dataclass(frozen=True, kw_only=True)
class FileCounts:
    """Records of one file; blank lines and the header are no records."""

    file: str
    num_read: int
    num_kept: int
    num_duplicate: int
    num_rejected: int


@dataclass(frozen=True, kw_only=True)
class PostsReport:
    """What became of every record: ``num_read`` is counted from the bytes, the rest by what the parser gave."""

    num_read: int
    num_kept: int
    num_duplicate: int
    num_rejected: int
    files: tuple[FileCounts, ...]

    @property
    def reconciles(self) -> bool:
        """Whether read = kept + duplicate + rejected, in every file and in all."""
        names = ("num_read", "num_kept", "num_duplicate", "num_rejected")
        sums = {name: sum(getattr(counts, name) for counts in self.files) for name in names}
        return all(getattr(self, name) == value for name, value in sums.items()) and all(
            counts.num_read == counts.num_kept + counts.num_duplicate + counts.num_rejected for counts in self.files
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

    Raises:
        ExportError: a pattern matches no file, or a file is empty.
    """
    files: set[Path] = set()
    for pattern in patterns:
        found = [Path(path) for path in glob.glob(str(root / pattern), recursive=True) if os.path.isfile(path)]
        if not found:
            raise ExportError(f"{root / pattern}: no such export file; correct [posts] export or put the file there")
        files.update(found)
    for file in sorted(files):
        if file.stat().st_size == 0:
            raise ExportError(f"{file}: is empty; export the posts again or remove the file")
    return sorted(files)


def read_posts(
    files: Sequence[Path],
    out_dir: Path,
    settings: PostsSettings,
    duckdb_settings: DuckdbSettings,
    temp_dir: Path | None = None,
) -> PostsReport:
    """The report on `files`, whose posts are written to `out_dir` with ``rejects.parquet`` and ``report.json``.

    Parts hold `POST_COLUMNS` in export order (id int64, rating string, score int32, tags strings). Of posts with the
    same id the first stays. The bytes depend on the export alone, not on threads or memory.

    Raises:
        ExportError: a file has a wrong header or cannot be read, or there is no record at all.
        TooManyRejectsError: more than ``max_rejected_share`` of the records are unfit; names the first reasons.
    """
    state = _Reading(PartsWriter(out_dir), RejectsWriter(out_dir / REJECTS_FILE))
    labels = _labels(files)
    try:
        with (
            scratch_folder(temp_dir) as scratch,
            connect(duckdb_settings, scratch) as connection,
            state.parts,
            state.rejects,
        ):
            for file in files:
                state.counts.append(_read_file(file, labels[file], state, connection, scratch))
        report = _report(state.counts)
        _accept(report, state.reasons, settings)
    except BaseException:
        for path in (*state.parts.paths, out_dir / REJECTS_FILE):
            path.unlink(missing_ok=True)
        raise
    (out_dir / REPORT_FILE).write_text(report.to_json(), encoding="utf-8")
    return report


@dataclass
class _Reading:
    """What is carried from file to file."""

    parts: PartsWriter
    rejects: RejectsWriter
    seen: SeenIds = field(default_factory=SeenIds)
    counts: list[FileCounts] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def open_source(file: Path) -> Source:
    """The reader for `file`, whose kind is told by its first bytes.

    Raises:
        ExportError: it is empty or broken, or a column is missing.
    """
    start = first_bytes(file)
    if start.startswith(_PARQUET_MAGIC):
        return ParquetSource(file)
    return JsonLinesSource(file) if start.lstrip().startswith(b"{") else DelimitedSource(file)


def _read_file(
    file: Path, label: str, state: _Reading, connection: duckdb.DuckDBPyConnection, scratch: Path
) -> FileCounts:
    source = open_source(file)
    kept_before = state.parts.num_rows
    unfit: list[NDArray[np.int64]] = []
    duplicate: list[NDArray[np.int64]] = []
    num_parsed = 0
    for batch in source.batches(connection, scratch):
        valid = _valid(batch)
        fresh = valid.copy()
        ids = batch.column("id").fill_null(0).to_numpy(zero_copy_only=False)
        fresh[valid] = state.seen.add(ids[valid])
        unfit.append(np.flatnonzero(~valid) + num_parsed)
        duplicate.append(np.flatnonzero(valid & ~fresh) + num_parsed)
        num_parsed += len(batch)
        posts = batch.select(POST_COLUMNS)
        state.parts.add(posts if fresh.all() else posts.filter(pa.array(fresh)))
    if num_parsed + len(source.malformed) != source.num_records:
        raise ExportError(
            f"{file}: {source.num_records} records were counted, of which {len(source.malformed)} malformed, but "
            f"{num_parsed} were parsed; report this file as a bug of booru-embed"
        )
    rejected = np.union1d(source.malformed, source.line_of(joined(unfit)))
    duplicates = source.line_of(joined(duplicate))
    _set_aside(source, label, rejected, duplicates, state)
    return FileCounts(
        file=label,
        num_read=source.num_records,
        num_kept=state.parts.num_rows - kept_before,
        num_duplicate=len(duplicates),
        num_rejected=len(rejected),
    )


def _valid(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Which rows have all values; a source gives null for every unfit one."""
    valid = np.ones(len(batch), dtype=np.bool_)
    for column in batch.columns:
        if column.null_count:
            valid &= column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _set_aside(
    source: Source, label: str, rejected: NDArray[np.int64], duplicates: NDArray[np.int64], state: _Reading
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


def _report(counts: Sequence[FileCounts]) -> PostsReport:
    return PostsReport(
        num_read=sum(file.num_read for file in counts),
        num_kept=sum(file.num_kept for file in counts),
        num_duplicate=sum(file.num_duplicate for file in counts),
        num_rejected=sum(file.num_rejected for file in counts),
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
