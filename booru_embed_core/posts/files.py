"""Reads CSV exports, plain or gzip, into the ``posts`` table: Parquet parts in export order.

Each file is looked at twice. ``scan.py`` counts its records and finds malformed lines from the bytes alone; then DuckDB
parses it as a stream. A file with malformed lines is parsed from a copy without them. Lines with unfit values and posts
seen before leave the stream here. Only for files with such lines a last look fetches their raw text.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.posts.database import connect, quoted, scratch_folder
from booru_embed_core.posts.parts import PartsWriter, SeenIds
from booru_embed_core.posts.scan import Scan, raw_lines, scan_file, write_clean_copy
from booru_embed_core.posts.validation import (
    MAX_LINE_BYTES,
    ExportError,
    RejectsWriter,
    TooManyRejectsError,
    line_problem,
)
from booru_embed_core.schema import RATINGS, TAG_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings

REJECTS_FILE: Final = "rejects.parquet"
REPORT_FILE: Final = "report.json"
DUPLICATE_REASON: Final = "duplicate: a post with this id was read before"
_NUM_SHOWN_REASONS: Final = 5


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
    with ExitStack() as unless_done:
        unless_done.callback(state.remove_files, out_dir)
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
        unless_done.pop_all()
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

    def remove_files(self, out_dir: Path) -> None:
        """Removes what was written, so that a failure leaves nothing that could be taken for posts."""
        for path in (*self.parts.paths, out_dir / REJECTS_FILE):
            path.unlink(missing_ok=True)


def _read_file(
    file: Path, label: str, state: _Reading, connection: duckdb.DuckDBPyConnection, scratch: Path
) -> FileCounts:
    scan = scan_file(file)
    kept_before = state.parts.num_rows
    unfit: list[NDArray[np.int64]] = []
    duplicate: list[NDArray[np.int64]] = []
    num_parsed = 0
    for batch in _parse(file, scan, connection, scratch):
        valid = _valid(batch)
        fresh = valid.copy()
        ids = batch.column("id").fill_null(0).to_numpy(zero_copy_only=False)
        fresh[valid] = state.seen.add(ids[valid])
        unfit.append(np.flatnonzero(~valid) + num_parsed)
        duplicate.append(np.flatnonzero(valid & ~fresh) + num_parsed)
        num_parsed += len(batch)
        state.parts.add(batch if fresh.all() else batch.filter(pa.array(fresh)))
    if num_parsed + len(scan.malformed) != scan.num_records:
        raise ExportError(
            f"{file}: {scan.num_records} records were counted, of which {len(scan.malformed)} malformed, but DuckDB "
            f"parsed {num_parsed}; report this file as a bug of booru-embed"
        )
    rejected = np.union1d(scan.malformed, scan.line_of(_joined(unfit)))
    duplicates = scan.line_of(_joined(duplicate))
    _set_aside(file, label, scan.columns, rejected, duplicates, state)
    return FileCounts(
        file=label,
        num_read=scan.num_records,
        num_kept=state.parts.num_rows - kept_before,
        num_duplicate=len(duplicates),
        num_rejected=len(rejected),
    )


def _valid(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Which rows have all three values; the query gives NULL for every unfit one."""
    valid = np.ones(len(batch), dtype=np.bool_)
    for name in ("id", "rating", "score"):
        column = batch.column(name)
        if column.null_count:
            valid &= column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _parse(file: Path, scan: Scan, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Iterator[pa.RecordBatch]:
    """The well-formed records of `file` as batches of `POST_COLUMNS` in its order; unfit values are null."""
    if len(scan.malformed) or scan.newline is None:
        copy = scratch / "clean.csv"
        write_clean_copy(file, scan, copy)
        yield from _stream(_query(copy, scan.columns, "\n", is_gzip=False), file, connection)
        copy.unlink()
    else:
        yield from _stream(_query(file, scan.columns, scan.newline, is_gzip=scan.is_gzip), file, connection)


def _stream(query: str, file: Path, connection: duckdb.DuckDBPyConnection) -> Iterator[pa.RecordBatch]:
    try:
        yield from connection.sql(query).to_arrow_reader(65_536)
    except (duckdb.Error, pa.ArrowInvalid) as error:
        first_line = str(error).partition("\n")[0]
        raise ExportError(f"{file}: DuckDB cannot parse it ({first_line}); check the file") from error


def _query(file: Path, columns: Sequence[str], newline: str, *, is_gzip: bool) -> str:
    """Everything about the format is said, so that nothing is guessed from the first lines.

    Values come as text and are cast here: DuckDB's own casts would take ``1.5`` for 2 and ``1e3`` for 1000. Without
    force_not_null a quoted ``""`` would be NULL.
    """
    types = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in columns)
    names = ", ".join(quoted(name) for name in columns)
    number = "case when regexp_full_match({0}, '-?[0-9]{{1,19}}') then try_cast({0} as {1}) end as {0}"
    ratings = ", ".join(quoted(rating) for rating in RATINGS)
    fields = ", ".join(
        [
            number.format("id", "bigint"),
            f"case when rating in ({ratings}) then rating end as rating",
            number.format("score", "integer"),
            *TAG_COLUMNS,
        ]
    )
    options = {
        "columns": f"{{{types}}}",
        "auto_detect": "false",
        "header": "true",
        "delim": "','",
        "quote": "'\"'",
        "escape": "'\"'",
        "comment": "''",
        "new_line": "'\\r\\n'" if newline == "\r\n" else "'\\n'",
        "compression": "'gzip'" if is_gzip else "'none'",
        "encoding": "'utf-8'",
        "force_not_null": f"[{names}]",
        "max_line_size": str(2 * MAX_LINE_BYTES),
    }
    arguments = ", ".join([quoted(str(file)), *(f"{name} = {value}" for name, value in options.items())])
    return f"select {fields} from read_csv({arguments})"  # noqa: S608


def _set_aside(
    file: Path,
    label: str,
    columns: Sequence[str],
    rejected: NDArray[np.int64],
    duplicates: NDArray[np.int64],
    state: _Reading,
) -> None:
    """Writes the raw text of these lines with their reasons, in the file's order."""
    wanted = np.sort(np.concatenate([rejected, duplicates])).tolist()
    if not wanted:
        return
    is_duplicate = set(duplicates.tolist())
    upcoming = iter(wanted)
    next_line = next(upcoming)
    for number, raw in enumerate(raw_lines(file), start=1):
        if number != next_line:
            continue
        if number in is_duplicate:
            reason = DUPLICATE_REASON
        else:
            reason = line_problem(raw, columns) or "not a well-formed record"
            if len(state.reasons) < _NUM_SHOWN_REASONS:
                state.reasons.append(f"{label} line {number}: {reason}")
        state.rejects.add(label, number, reason, raw)
        next_line = next(upcoming, 0)
        if not next_line:
            return


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


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
